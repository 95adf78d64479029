"""Bad manners by name: what becomes of the pictures of an RTSP camera, and of the parts of an HTTP camera."""

import random
import time
from collections.abc import Callable, Iterable, Iterator

SLICES = (1, 5)
KEY, PARAMETERS = 5, (7, 8)
_HEAD_BYTES = 6
"""Of a slice, left alone: a decoder that finds no slice at all has nothing to go wrong with."""
_chance = random.Random(8)

Spoiler = Callable[[list[bytes]], list[bytes]]
PartMaker = Callable[[bytes], Iterable[bytes]]


def spoiler(name: str) -> Spoiler | None:
    """Return what spoils the NAL units of a picture; None for no name."""
    return {"corrupt-slices": _corrupt, "truncated": _truncated, "no-keyframe": _no_keyframe}[name] if name else None


def _corrupt(unit: list[bytes]) -> list[bytes]:
    """Overwrite a fifth of each slice with noise, in places."""
    return [_noisy(nal) if nal[0] & 31 in SLICES else nal for nal in unit]


def _noisy(nal: bytes) -> bytes:
    spoilt = bytearray(nal)
    for _ in range(max(1, len(nal) // 50)):
        start = _chance.randrange(_HEAD_BYTES, max(_HEAD_BYTES + 1, len(nal)))
        spoilt[start : start + 10] = _chance.randbytes(min(10, len(nal) - start))
    return bytes(spoilt)


def _truncated(unit: list[bytes]) -> list[bytes]:
    """Leave the beginning of each NAL unit, parameter sets included."""
    return [nal[: max(2, len(nal) // 3)] for nal in unit]


def _no_keyframe(unit: list[bytes]) -> list[bytes]:
    """Send neither key pictures nor what belongs to them."""
    return [] if any(nal[0] & 31 == KEY for nal in unit) else [nal for nal in unit if nal[0] & 31 not in PARAMETERS]


def part_maker(name: str) -> PartMaker | None:
    """Return what makes a part of a JPEG; None for no name."""
    makers: dict[str, PartMaker] = {
        "endless-header": _endless_header,
        "missing-boundary": _missing_boundary,
        "gigantic-part": _gigantic_part,
        "short-length": lambda jpeg: _lying_length(jpeg, len(jpeg) // 2),
        "long-length": lambda jpeg: _lying_length(jpeg, 3 * len(jpeg)),
        "slow-drip": _slow_drip,
    }
    return makers[name] if name else None


def _head(length: int) -> bytes:
    return f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n".encode()


def _endless_header(_: bytes) -> Iterator[bytes]:
    yield b"--frame\r\nContent-Type: image/jpeg\r\n"
    while True:
        yield b"X-Padding: " + 1000 * b"a" + b"\r\n"


def _missing_boundary(jpeg: bytes) -> Iterator[bytes]:
    yield jpeg


def _gigantic_part(jpeg: bytes) -> Iterator[bytes]:
    yield _head(2_000_000_000) + jpeg
    while True:
        yield bytes(1 << 16)


def _lying_length(jpeg: bytes, length: int) -> Iterator[bytes]:
    yield _head(length) + jpeg + b"\r\n"


def _slow_drip(jpeg: bytes) -> Iterator[bytes]:
    for byte in _head(len(jpeg)) + jpeg:
        yield bytes([byte])
        time.sleep(0.2)
