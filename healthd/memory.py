"""How the C library hands out memory: told once, at the start."""

import ctypes
import os

ARENAS = 2
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def limit_arenas() -> bool:
    """Let all threads share `ARENAS` arenas of glibc's malloc; return whether it was done.

    Left alone, glibc gives threads arenas of their own, up to eight for each core, and what one keeps the others cannot
    use: with frames of some megabytes and threads that come and go, a third of the memory is such leftovers (measured
    in docs/performance.md). Call it before threads are started. What the environment says (`MALLOC_ARENA_MAX`,
    `GLIBC_TUNABLES`) goes first; other C libraries have no arenas.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))
