"""The HTTP API: one file per resource; each parses, calls, shapes and nothing else."""
