"""`healthd auth`: make a key, and the hash of one for a configuration that others get to read."""

import getpass
import sys

from healthd.key_hash import hash_key, new_key
from healthd.settings import SHORTEST_KEY

OK, WRONG = 0, 2


def hash_typed() -> int:
    """Read a key from the terminal, or a line of standard input; print its hash. It is shown nowhere else."""
    key = _typed() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if key is None:
        return _say("that was not the same key twice")
    if len(key) < SHORTEST_KEY:
        return _say(f"a key has at least {SHORTEST_KEY} characters; `healthd auth new` makes one")
    print(hash_key(key))
    return OK


def make() -> int:
    """Print a new key, which is kept nowhere, and its hash."""
    key = new_key()
    print(f"key   {key}\nhash  {hash_key(key)}")
    return OK


def _typed() -> str | None:
    key = getpass.getpass("key: ")
    return key if getpass.getpass("once more: ") == key else None


def _say(text: str) -> int:
    print(text, file=sys.stderr)
    return WRONG
