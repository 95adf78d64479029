"""Faults of devices."""
