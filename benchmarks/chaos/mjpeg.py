"""Faults of HTTP cameras."""
