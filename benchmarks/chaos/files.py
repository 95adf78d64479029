"""Faults of files that play as cameras."""
