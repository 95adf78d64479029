"""Certificates that vouch for themselves, made by the openssl of the machine."""

import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, name: str = "server", *, days: int = 2) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost, and its key. `days` below 0: it has expired."""
    certificate, key, request = (folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
    names = folder / f"{name}.ext"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        _run("req", "-new", *kind, "-subj", f"/CN=healthd {name}", "-out", request, "-keyout", key)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    sign = ["-in", request, "-signkey", key, "-days", days, "-extfile", names, "-out", certificate]
    _run("x509", "-req", *sign)
    return certificate, key


def _run(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=20)
