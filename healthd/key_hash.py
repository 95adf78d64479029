"""API keys as they may stand in a configuration that others get to read: a slow hash with a salt, never the key.

The form is `scrypt:N:R:P:SALT:HASH`, the last two in URL-safe base64. A check costs some 0.2 s and 16 MB; whoever
checks keeps the keys that were right in mind (`healthd.api.keys`).
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

PREFIX = "scrypt:"
N, R, P = 2**14, 8, 5
"""What OWASP recommends where 16 MB of memory are to do."""
MAX_N, MAX_R, MAX_P = 2**17, 16, 16
_SALT_BYTES, _HASH_BYTES = 16, 32
_FORM = re.compile(r"scrypt:(\d{1,6}):(\d{1,2}):(\d{1,2}):([A-Za-z0-9_-]{16,88}={0,2}):([A-Za-z0-9_-]{43}=?)")


@dataclass(frozen=True, slots=True)
class KeyHash:
    """One hashed key."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def fits(self, key: str) -> bool:
        """Hash a key the same way and compare. Blocks for a fraction of a second; takes 128 * n * r bytes meanwhile."""
        return hmac.compare_digest(_scrypt(key, self.salt, self.n, self.r, self.p), self.digest)


def is_hashed(text: str) -> bool:
    """Tell whether what stands for a key is meant to be its hash."""
    return text.startswith(PREFIX)


def hash_key(key: str) -> str:
    """Return the hash of a key, with a salt of its own: each time another."""
    salt = secrets.token_bytes(_SALT_BYTES)
    parts = (str(N), str(R), str(P), _encode(salt), _encode(_scrypt(key, salt, N, R, P)))
    return PREFIX + ":".join(parts)


def read_hash(text: str) -> KeyHash:
    """Read what `hash_key` has made.

    Raises:
        ValueError: it is no such hash, or one that costs too much. It does not quote the text.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("is no hash of a key: make one with `healthd auth hash`")
    n, r, p = (int(number) for number in found.groups()[:3])
    if not (2 <= n <= MAX_N and n & (n - 1) == 0 and 1 <= r <= MAX_R and 1 <= p <= MAX_P):
        raise ValueError("is a hash with parameters that are not taken: make one with `healthd auth hash`")
    try:
        return KeyHash(n, r, p, _decode(found[4]), _decode(found[5]))
    except binascii.Error:
        raise ValueError("is no hash of a key: make one with `healthd auth hash`") from None


def new_key() -> str:
    """Make a key of 256 random bits, as text of 43 characters."""
    return secrets.token_urlsafe(32)


def _scrypt(key: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    room = 128 * r * (n + p + 2) + 2**20
    return hashlib.scrypt(
        key.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=room, dklen=_HASH_BYTES
    )


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
