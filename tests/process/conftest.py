"""What tests with a real process share."""

import subprocess

import pytest

from tests.process.daemon import NAMESPACE


@pytest.fixture(scope="session")
def pid_namespace() -> None:
    """Skip where a process may not make a PID namespace."""
    try:
        tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        pytest.skip("no `unshare` on this machine")
    if tried.returncode != 0:
        pytest.skip(f"this machine permits no PID namespace: {tried.stderr.strip()}")
