"""What the kernel does with each signal of this process, below Python.

`signal.getsignal` tells what Python was told. A C library that calls `sigaction` is seen by nobody, until the stop does
not stop any more.
"""

import ctypes
import functools
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

_LONGEST = 256
"""Bytes of `struct sigaction`, or more."""
_HANDLER = ctypes.sizeof(ctypes.c_void_p)
"""On all systems it begins with the handler. Of what follows, some is whatever lay in memory: it is not compared."""


@dataclass(frozen=True, slots=True)
class Action:
    """What is done with one signal; equal where the handler is."""

    handler: bytes
    whole: bytes = field(compare=False)


Actions: TypeAlias = Mapping[int, Action]


def signal_actions() -> Actions:
    """Return what is set for each signal; to be compared, and to be put back. Empty where this system does not tell."""
    sigaction = _sigaction()
    if sigaction is None:
        return {}
    found: dict[int, Action] = {}
    for number in signal.valid_signals():
        action = ctypes.create_string_buffer(_LONGEST)
        if sigaction(int(number), None, action) == 0:
            found[int(number)] = Action(action.raw[:_HANDLER], action.raw)
    return found


def put_back_actions(before: Actions) -> None:
    """Set what `signal_actions` returned, where it differs now."""
    sigaction = _sigaction()
    for number, action in signal_actions().items():
        if sigaction is not None and number in before and before[number] != action:
            sigaction(number, ctypes.create_string_buffer(before[number].whole, _LONGEST), None)


def signal_names(before: Actions, after: Actions) -> str:
    """Return the names of the signals that are handled in another way than before."""
    return ", ".join(_name(number) for number, action in after.items() if before.get(number) != action)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


@functools.cache
def _sigaction() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None).sigaction
    except (OSError, AttributeError):
        return None
