"""What can be told to the FFmpeg inside of OpenCV, past OpenCV."""

import ctypes
from contextlib import suppress
from pathlib import Path

LARGEST_BLOCK_BYTES = 128 << 20
"""A picture of 8K takes 50 MB, the index of a recording of a day 60 MB."""


def limit_blocks(largest_bytes: int = LARGEST_BLOCK_BYTES) -> bool:
    """Have FFmpeg refuse, as out of memory, to take more than so many bytes at once; tell whether it could be told.

    Without it, a camera that announces a picture of 2 GB is believed, and so is a file with a terabyte of zeros.
    """
    with suppress(OSError, AttributeError):  # no Linux, or another build of OpenCV
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        mapped = {line[line.index("/") :] for line in lines if "/libavutil" in line}  # a path may hold blanks
        for path in mapped:
            library = ctypes.CDLL(path)
            library.av_max_alloc.argtypes, library.av_max_alloc.restype = (ctypes.c_size_t,), None
            library.av_max_alloc(largest_bytes)
            return True
    return False
