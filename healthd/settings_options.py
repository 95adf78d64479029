"""Settings of plugins: tables of which healthd knows the keys alone. What a key calls a secret is treated as one."""

from collections.abc import Mapping
from typing import Any

from healthd.redact import MASK, SCRUBBER, hide_urls, is_telling


class Options(dict[str, Any]):
    """A table that shows no secret as text, and else is the dict that was configured."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redacted(self))


def protected(options: Mapping[str, Any]) -> Options:
    """Hide the secrets of a table from every log and answer; return the table with a text form that shows none.

    Secrets are all texts below a telling key (`password`, `api_key`, ...), and the user info of every URL.
    """
    return Options({key: _protected(value, telling=is_telling(str(key))) for key, value in options.items()})


def _protected(value: Any, *, telling: bool) -> Any:
    if isinstance(value, Mapping):
        return Options(
            {key: _protected(inner, telling=telling or is_telling(str(key))) for key, inner in value.items()}
        )
    if isinstance(value, list):
        return [_protected(inner, telling=telling) for inner in value]
    if isinstance(value, str):
        hide_urls(value)
        if telling:
            SCRUBBER.register(value)
    return value


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table as it may be shown."""
    return {key: _redacted(value, telling=is_telling(str(key))) for key, value in options.items()}


def _redacted(value: Any, *, telling: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _redacted(inner, telling=telling or is_telling(str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner, telling=telling) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    return MASK if telling else SCRUBBER.scrub_object(value)
