"""What the command line reads of its words. Light: it is imported before anything else."""

import argparse
import contextlib
from pathlib import Path

HIGHEST_PORT = 65535


def side(text: str) -> int:
    """Read the side of a model's input."""
    if text.isdecimal() and 32 <= int(text) <= 4096:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 32 to 4096")


def file_name(text: str) -> str:
    """Read the name of a file, without a folder."""
    if Path(text).name == text and not text.startswith("."):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no plain name: the result goes into models.directory")


def every(text: str) -> int:
    """Read which frames of a video count."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")


def port(text: str) -> int:
    """Read a port; 0: any that is free."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to {HIGHEST_PORT}")
    return number


def interval(text: str) -> float:
    """Read seconds between two looks."""
    with contextlib.suppress(ValueError):
        if 0.1 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError("must be a number from 0.1 to 3600")
