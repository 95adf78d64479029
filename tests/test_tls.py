"""A certificate that is renewed while the daemon runs: those who come meanwhile get the old one or the new one."""

import asyncio
import shutil
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from healthd import tls
from healthd.tls import Pair, Tls
from tests.certificates import make_certificate
from tests.eventually import eventually


def shake_hands(server: ssl.SSLContext, cert: Path) -> None:
    """Begin TLS between a server and a client that trusts one certificate; raises what either of them does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=cert)
    sides = [
        trusting.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[0].version() is not None
    assert sides[0].getpeercert() is not None


async def test_a_renewal_is_read_once_aside_and_a_half_written_one_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the event loop serves the old certificate: its context is neither waited for nor changed."""
    cert, key = make_certificate(tmp_path)
    old_key = shutil.copy(key, tmp_path / "old.key")
    old_cert = shutil.copy(cert, tmp_path / "old.crt")
    used = Tls(Pair(cert, key))
    before, loaded = used.context, []
    load: Any = ssl.SSLContext.load_cert_chain

    def load_and_lose(context: ssl.SSLContext, *args: Any, **options: Any) -> None:
        """Load a pair whose key is another at once: whoever reads the files again gets a half of each."""
        load(context, *args, **options)
        loaded.append(threading.current_thread() is threading.main_thread())
        shutil.copy(old_key, key)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_lose)
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.02)
    keeping = asyncio.create_task(used.keep())
    try:
        new_cert, new_key = make_certificate(tmp_path, "new")
        shutil.copy(new_key, key)
        shutil.copy(new_cert, cert)
        await eventually(lambda: loaded and used.context is not before)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
    assert loaded == [False], "on a thread, once"
    shake_hands(used.context, new_cert)
    shake_hands(before, old_cert)
