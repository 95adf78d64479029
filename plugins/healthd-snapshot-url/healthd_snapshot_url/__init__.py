"""Cameras that offer single JPEGs over HTTP, for healthd."""

__version__ = "0.1.0"
