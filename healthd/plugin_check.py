"""`healthd plugins check`: the conformance suite on an installed plugin, a line for each rule. Needs no pytest."""

import argparse
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from healthd.errors import PictureError, SettingsError
from healthd.frames import Image
from healthd.nursery import die_with
from healthd.pictures import decode_picture
from healthd.plugins import FAMILIES, SOURCES, installed
from healthd.redact import SCRUBBER, SourceUrl
from healthd.settings import ConfigError, Settings, load_settings
from healthd.testing.case import FamilyCase, SourceCase
from healthd.testing.family_rules import FAMILY_RULES
from healthd.testing.rules import Verdict, verdicts
from healthd.testing.source_rules import SOURCE_RULES
from healthd.testing.watch import printed

OK, FAILED, WRONG = 0, 1, 2
_WIDTH = 26
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What the command line asks."""

    name: str
    url: str | None
    model: str | None
    options: Mapping[str, str]
    config: Path | None
    camera: str | None
    fps: float | None
    picture: Path | None

    @classmethod
    def of(cls, chosen: argparse.Namespace) -> Self:
        """Return what was asked."""
        names = ("name", "url", "model", "config", "camera", "fps", "picture")
        return cls(**{name: getattr(chosen, name) for name in names}, options=dict(chosen.options))


def check_plugin(asked: CheckOptions) -> int:
    """Try an installed plugin against every rule and say what came of it; return the exit code."""
    try:
        checks = list(_checks(asked))
    except (ConfigError, SettingsError, ValueError, OSError) as exc:
        return _say(f"healthd plugins check: {exc}", WRONG)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for title, rules, case in checks:
        _say(title, OK)
        tried: Iterator[Verdict] = verdicts(rules, case)
        promises = {rule.name: rule.promise for rule in rules}
        while True:
            with printed():  # it may print only what the rule for it tells
                verdict = next(tried, None)
            if verdict is None:
                break
            counts[verdict.outcome] += 1
            _tell(verdict, promises[verdict.rule])
    _say(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), OK)
    return FAILED if counts["failed"] else OK


def survived(check: Callable[[], int]) -> int:
    """Run a check in a process of its own, so that a plugin which ends its process does not pass; return the exit code.

    Where there is no `fork`, in this one.
    """
    if not hasattr(os, "fork"):
        return check()
    told, telling = os.pipe()
    mine = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        die_with(mine)
        code = check()
        sys.stdout.flush()
        os.write(telling, bytes([code]))
        os._exit(code)
    os.close(telling)
    with os.fdopen(told, "rb") as answer:
        code_told = answer.read(1)
    ending = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code_told:
        return code_told[0]
    how = f"with exit code {ending}" if ending >= 0 else f"by {signal.Signals(-ending).name}"
    return _say(f"healthd plugins check: the plugin ended the process {how}, at the rule after the last line", FAILED)


def _tell(verdict: Verdict, promise: str) -> None:
    word = verdict.outcome.upper() if verdict.outcome == "failed" else verdict.outcome
    _say(f"  {word:<8} {verdict.rule:<{_WIDTH}} {verdict.reason or promise}", OK)
    if verdict.remedy:
        _say(f"  {'':<8} {'':<{_WIDTH}} what to do: {verdict.remedy}", OK)


def _checks(asked: CheckOptions) -> Iterator[tuple[str, Any, Any]]:
    """Return what is to be tried: a source or a family of that name, or both if there is a model to try it with.

    Raises:
        SettingsError: nothing of that name is installed, it is broken, or it cannot be tried with what was given.
    """
    groups = {group: [point for point in installed(group) if point.name == asked.name] for group in (SOURCES, FAMILIES)}
    if not any(groups.values()):
        known = sorted({point.name for group in groups for point in installed(group)})
        raise SettingsError(f"no plugin `{asked.name}` is installed (installed: {', '.join(known) or 'none'})")
    settings = load_settings(asked.config)
    if groups[SOURCES]:
        case = _source_case(asked, settings)
        case.make(case.url)  # wrong settings are told before any rule is tried
        yield f"{asked.name}, a camera source", SOURCE_RULES, case
    if groups[FAMILIES] and (asked.model is not None or not groups[SOURCES]):
        family = _family_case(asked, settings)
        family.spec()
        yield f"{asked.name}, a family of models", FAMILY_RULES, family


def _source_case(asked: CheckOptions, settings: Settings) -> SourceCase:
    url, options = (None if asked.url is None else SourceUrl(asked.url)), _values(asked)
    if asked.camera is not None:
        camera = settings.cameras.get(asked.camera)
        if camera is None:
            raise SettingsError(f"--camera: no camera `{asked.camera}` in {asked.config or 'the environment'}")
        if camera.plugin != asked.name:
            raise SettingsError(f"--camera: `{asked.camera}` is served by plugin `{camera.plugin}`, not `{asked.name}`")
        url, options = url or camera.url, {**camera.options, **options}
    if asked.model is not None:
        options["model"] = asked.model
    return SourceCase(asked.name, url, options, fps=asked.fps, models_directory=settings.models.directory)


def _family_case(asked: CheckOptions, settings: Settings) -> FamilyCase:
    if asked.model is None:
        raise SettingsError(f"`{asked.name}` is a family of models: say which to try with --model")
    wanted = settings.models
    return FamilyCase(
        asked.name,
        model=asked.model,
        options=_values(asked),
        picture=None if asked.picture is None else _picture(asked.picture),
        models_directory=wanted.directory,
        cache_directory=wanted.cache_place,
    )


def _values(asked: CheckOptions) -> dict[str, Any]:
    """Return the options with values as TOML has them; what is none is a text."""
    values: dict[str, Any] = {}
    for key, text in asked.options.items():
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values


def _picture(path: Path) -> Image:
    try:
        return decode_picture(path.read_bytes(), max_pixels=_MOST_PIXELS)
    except PictureError as exc:
        raise SettingsError(f"--picture: {path} is no picture that can be read: {exc}") from None


def _say(text: str, code: int) -> int:
    print(SCRUBBER.scrub(text), file=sys.stderr if code else sys.stdout, flush=True)
    return code
