"""healthd: a camera daemon for home labs."""

__version__ = "0.1.0"
