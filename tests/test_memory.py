"""Threads share memory, so that what one has freed another can use."""

import os
import platform
import subprocess
import sys

import pytest

ARENAS_OF_16_THREADS = """
import ctypes, threading
from healthd.memory import limit_arenas
print(limit_arenas())
libc, barrier = ctypes.CDLL(None), threading.Barrier(16)
libc.malloc.restype = ctypes.c_void_p
def work():
    barrier.wait()
    libc.malloc(5000)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
import sys; sys.stdout.flush()
libc.malloc_info(0, out)
libc.fflush(out)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")


def arenas(**environment: str) -> tuple[bool, int]:
    env = {key: value for key, value in os.environ.items() if key not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", ARENAS_OF_16_THREADS]
    told = subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, check=True).stdout
    return told.startswith("True"), told.count("<heap nr=")


def test_sixteen_threads_share_two_arenas_unless_the_environment_says_otherwise() -> None:
    assert arenas() == (True, 2)
    done, number = arenas(MALLOC_ARENA_MAX="5")
    assert not done
    assert 2 < number <= 5
