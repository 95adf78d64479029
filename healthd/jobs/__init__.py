"""Batch work over many pictures or a video: media, the queue, the records, the runs. Knows no HTTP."""
