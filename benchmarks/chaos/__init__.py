"""Faults that healthd has to survive, done to the real daemon with real servers: `python -m benchmarks.chaos`."""
