"""What a rule of the conformance suite is, and how it is judged. Plain Python: pytest need not be installed."""

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from healthd.errors import HealthdError, SettingsError
from healthd.plugins import validated_options
from healthd.testing.watch import deeds, held, leaked

T = TypeVar("T")
CaseT = TypeVar("CaseT")
CONSTRUCT_SECONDS = 0.5


class Broken(Exception):  # noqa: N818  a rule is broken; the word says so
    """The plugin breaks a rule: what it does, and what it should do instead."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


class NotTried(Exception):  # noqa: N818  nothing went wrong
    """The rule says nothing of this plugin, or something is missing to try it; with the reason."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[CaseT]):
    """One promise of the contract, and the function that finds out whether it is kept."""

    name: str
    judge: Callable[[CaseT], None]
    """Raises `Broken` or `NotTried`; any other error is a bug of the plugin."""
    opens: bool = True
    """Whether it needs the camera, or the model, to open."""

    @property
    def promise(self) -> str:
        """What is promised, in a sentence."""
        return (self.judge.__doc__ or self.name).splitlines()[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one rule."""

    rule: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""
    remedy: str = ""
    trace: str = ""
    """The traceback of what the plugin raised, where it raised something that it should not."""


def judged(rule: Rule[CaseT], case: CaseT) -> Verdict:
    """Try one rule; whatever the plugin does, there is a verdict."""
    try:
        rule.judge(case)
    except NotTried as exc:
        return Verdict(rule.name, "skipped", str(exc))
    except Broken as exc:
        return Verdict(rule.name, "failed", str(exc), exc.remedy, _trace(exc.__cause__))
    except HealthdError as exc:
        reason = f"{type(exc).__name__}: {exc}"
        return Verdict(rule.name, "failed", reason, "see that it works with these settings, then check it again")
    except Exception as exc:  # noqa: BLE001  it is a bug of the plugin, and is told as one
        reason = f"{type(exc).__name__}: {exc}"
        return Verdict(rule.name, "failed", reason, "mend the bug, or raise the error of its kind", _trace(exc))
    return Verdict(rule.name, "passed")


def verdicts(rules: Iterable[Rule[CaseT]], case: CaseT) -> Iterator[Verdict]:
    """Try all rules, one after the other; those that need what the first of them could not open are skipped."""
    closed = False
    for rule in rules:
        if rule.opens and closed:
            yield Verdict(rule.name, "skipped", "it could not be opened, see above")
            continue
        verdict = judged(rule, case)
        closed = closed or (rule.name in {"opens", "loads"} and verdict.outcome == "failed")
        yield verdict


def check_options(model: type[BaseModel], options: Mapping[str, Any]) -> None:
    """Raise `Broken` unless every setting is described and frozen, and unknown keys are refused."""
    schema = model.model_json_schema()
    silent = [name for name, field in schema.get("properties", {}).items() if not field.get("description")]
    if silent:
        raise Broken(
            f"{model.__name__} does not say what {', '.join(f'`{name}`' for name in silent)} means",
            "give each field a description: `Field(8, description=...)`; `healthd plugins` and the panel show it",
        )
    if not model.model_config.get("frozen"):
        raise Broken(
            f"{model.__name__} can be changed after it was made",
            "leave `frozen=True` in its model_config, as the base class has it",
        )
    known = {name: value for name, value in options.items() if name != _UNKNOWN}
    try:
        validated_options(model, {**known, _UNKNOWN: 1}, where="options")
    except SettingsError as exc:
        if _UNKNOWN in str(exc):
            return
    raise Broken(
        f"{model.__name__} takes a key that it does not know",
        'leave `extra="forbid"` in its model_config: a misspelt setting must be told, not ignored',
    )


def check_constructor(make: Callable[[], T], remedy: str) -> T:
    """Make it; raise `Broken` where that does more than to keep what was given."""
    make()  # what is imported the first time is no matter
    before = held()
    with deeds() as done:
        made, took = _timed(make)
    for _ in range(2):  # a busy machine may be slow for a moment
        took = min(took, _timed(make)[1]) if took > CONSTRUCT_SECONDS else took
    told = [*done, *filter(None, [leaked(before, by=1)])]
    if took > CONSTRUCT_SECONDS:
        told.append(f"takes {took:.1f} s")
    if told:
        raise Broken(f"the constructor {', '.join(dict.fromkeys(told))}", remedy)
    return made


def _timed(make: Callable[[], T]) -> tuple[T, float]:
    began = time.monotonic()
    return make(), time.monotonic() - began


_UNKNOWN = "no_such_setting"


def as_json(value: object, what: str) -> str:
    """Return the JSON of a value; raise `Broken` where it has none."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise Broken(
            f"{what} cannot be written as JSON: {exc}", "use plain int, float, str, list and dict, no NaN"
        ) from exc


def _trace(exc: BaseException | None) -> str:
    return "" if exc is None else "".join(traceback.format_exception(exc))
