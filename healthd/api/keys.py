"""The API keys: recognised in a time that tells nothing of them, also those of which only a slow hash is known."""

import asyncio
import hmac
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from healthd.key_hash import KeyHash, is_hashed, read_hash

Scope = Literal["read", "admin"]
MAX_WAITING = 8
"""Keys that may wait for the one thread that hashes; each takes a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who was recognised."""

    name: str
    scope: Scope

    def may(self, needed: Scope) -> bool:
        """Whether this scope covers the needed one."""
        return needed == "read" or self.scope == "admin"


@dataclass(slots=True, eq=False)
class _Key:
    identity: Identity
    digest: bytes | None
    """None: only its hash is known, and nobody has shown it yet."""
    hashed: KeyHash | None
    source: bytes
    """Digest of what stands in the configuration."""


class TooManyChecks(Exception):  # noqa: N818  it says what it is
    """The thread that hashes has enough to do."""


class KeyRing:
    """All keys, by digests under a secret of this process. Lives as long as the daemon; keeps no key.

    A hashed key is hashed once: as soon as it was shown and was right, its digest is known as that of any other.
    """

    def __init__(self, keys: Iterable[tuple[str, str, Scope]]) -> None:
        self._secret = secrets.token_bytes(32)
        self._nobody = secrets.token_bytes(32)
        self._waiting = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="key-hash")
        self._keys: tuple[_Key, ...] = ()
        self.replace(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def replace(self, keys: Iterable[tuple[str, str, Scope]]) -> set[str]:
        """Take these keys in place of those before; return the names of those that are gone or are others now."""
        known = {(key.identity, key.source): key for key in self._keys}
        made = [self._made(name, text, scope) for name, text, scope in keys]
        self._keys = tuple(known.pop((key.identity, key.source), key) for key in made)
        return {identity.name for identity, _ in known}

    def known(self, key: str) -> Identity | None:
        """Recognise a key by its digest. All are compared, whichever fits."""
        digest, found = self._digest(key), None
        for one in self._keys:
            if hmac.compare_digest(one.digest or self._nobody, digest):
                found = one.identity
        return found

    async def find(self, key: str) -> Identity | None:
        """Recognise a key that `known` does not know, by the hashes of those that nobody has shown yet.

        Raises:
            TooManyChecks: too many keys wait to be hashed.
        """
        candidates = [one for one in self._keys if one.digest is None and one.hashed is not None]
        if not candidates:
            return None
        if self._waiting >= MAX_WAITING:
            raise TooManyChecks
        self._waiting += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, _fitting, candidates, key)
        finally:
            self._waiting -= 1
        for one in found:
            one.digest = self._digest(key)
        return self.known(key)

    def _made(self, name: str, text: str, scope: Scope) -> _Key:
        hashed = read_hash(text) if is_hashed(text) else None
        digest = self._digest(text)
        return _Key(Identity(name, scope), None if hashed else digest, hashed, source=digest)

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), "sha256")


def _fitting(candidates: list[_Key], key: str) -> list[_Key]:
    return [one for one in candidates if one.hashed is not None and one.hashed.fits(key)]
