"""`healthd models`: prepare a model for this machine, list what is there, verify what was prepared."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from healthd.daemon import load_installed_plugins
from healthd.errors import HealthdError, SettingsError
from healthd.models.catalog import Catalog, found
from healthd.models.manifest import damages, read_manifest, total_bytes
from healthd.models.model import ModelFamily, ModelSpec
from healthd.models.prepare import Parity, PreparedModel, PrepareReport, PrepareRequest
from healthd.redact import SCRUBBER
from healthd.settings import Settings

OK, FAILED, WRONG = 0, 1, 2
_PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


async def prepare(settings: Settings, name: str, request: PrepareRequest) -> int:
    """Prepare a model and say what came of it; return the exit code. Blocks: nothing else runs in this process."""
    try:
        family, spec = await _asked(settings, name)
        with _signals(), _Bars() if sys.stderr.isatty() else _Lines() as progress:  # no `await` in it: see `_Stopped`
            made = family.prepare(spec, request, progress)
    except _Stopped as exc:
        return _say("stopped; the same command goes on after the last stage that was done", 128 + exc.number)
    except HealthdError as exc:
        return _say(str(exc), WRONG if isinstance(exc, SettingsError) else FAILED)
    except OSError as exc:
        return _say(f"{exc.filename or settings.models.directory}: {exc.strerror or exc}", FAILED)
    return _told(made)


def _told(made: PreparedModel) -> int:
    _show(made)
    if made.report.beyond is None:
        return OK
    if made.in_place:
        return _say(f"put in place as asked, although {made.report.beyond}", OK)
    return _say(f"not put in place: {made.report.beyond}; --force puts it there all the same", FAILED)


async def list_models(settings: Settings) -> int:
    """Print what lies in the models directory and which family serves it."""
    families = await _families(settings)
    directory = settings.models.directory
    found = Catalog(families, directory=directory).entries()
    table = Table("model", "family", "size", "prepared from", box=SIMPLE_HEAD)
    for entry in found:
        path = directory / entry.model_id
        try:
            manifest = read_manifest(path)
            made_from = f"{manifest.source.name}, {manifest.made_at[:10]}" if manifest else ""
            size = _size(total_bytes(path))
        except (SettingsError, OSError) as exc:
            made_from, size = str(exc), "?"
        table.add_row(escape(entry.model_id), escape(entry.family), size, escape(made_from))
    if not found:
        return _say(f"there is no model in models.directory ({directory})", OK)
    _console().print(table)
    return OK


async def verify(settings: Settings, name: str) -> int:
    """Compare a prepared model with the checksums it was made with."""
    path = found(name, settings.models.directory)
    if path is None:
        return _say(f"there is no `{name}`, neither as a path nor in models.directory", WRONG)
    try:
        manifest = read_manifest(path)
        if manifest is None:
            return _say(f"{name} was not made by `healthd models prepare`: it has no checksums", WRONG)
        wrong = damages(path, manifest)
    except SettingsError as exc:
        return _say(str(exc), FAILED)
    except OSError as exc:
        return _say(f"{exc.filename}: {exc.strerror or exc}", FAILED)
    if wrong:
        remedy = f"prepare {manifest.source.name} again, with --force"
        return _say(f"{name} is not what was prepared: {'; '.join(wrong)}. {remedy}", FAILED)
    count = f"{len(manifest.files)} file{'' if len(manifest.files) == 1 else 's'}"
    print(f"{name}: {count}, as made from {manifest.source.name}")  # noqa: T201  the command line prints
    return OK


class _Stopped(KeyboardInterrupt):
    """Somebody wants it to end. No `Exception`: nobody on the way may take it for a failure.

    Raised wherever the process is, which must not be inside the event loop: nobody catches it there.
    """

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _signals() -> Iterator[None]:
    """Raise `_Stopped` for the first signal; the second ends the process."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, lambda again, _: os._exit(128 + again))
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _families(settings: Settings) -> Mapping[str, ModelFamily]:
    plugins = await load_installed_plugins(safe_mode=settings.server.safe_mode)
    return {plugin.name: plugins.made[plugin.target] for plugin in plugins.families if plugin.target is not None}


async def _asked(settings: Settings, name: str) -> tuple[ModelFamily, ModelSpec]:
    """Return who serves the name, and what it stands for.

    Raises:
        SettingsError: nobody does.
    """
    families = await _families(settings)
    wanted = settings.models
    served_by = next((family for _, family in sorted(families.items()) if family.serves(name)), None)
    if served_by is None:
        raise SettingsError(
            f"no installed plugin has a family for `{name}`; `healthd models list` shows what is served"
        )
    path = found(name, wanted.directory)
    return served_by, ModelSpec(
        name,
        path,
        wanted.directory,
        served_by.options_model(),
        settings.performance.threads or None,
        allow_pickle=wanted.allow_pickle,
    )


class _Bars:
    """A bar for each stage, on a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._end()
        self._progress.stop()

    def stage(self, title: str) -> None:
        self._end()
        self._task = self._progress.add_task(escape(title), total=None)

    def advance(self, done: int, total: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def _end(self) -> None:
        if self._task is not None:
            total = self._progress.tasks[-1].total or 1
            self._progress.update(self._task, completed=total, total=total)
            self._progress.stop_task(self._task)


class _Lines:
    """A line for each stage, for a log."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stage(self, title: str) -> None:
        _say(title, OK)

    def advance(self, done: int, total: int) -> None:
        pass


def _show(made: PreparedModel) -> None:
    console, report = _console(), made.report
    if made.already:
        console.print(f"already prepared, from the same file with the same options: {escape(str(made.path))}")
    console.print(_speeds(made), _parities(report), sep="")
    console.print(f"measured on {escape(report.pictures)}{', when it was prepared' if made.already else ''}")
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    if made.in_place:
        console.print(f"\n{escape(str(made.path))} runs without torch. In the configuration:\n")
        console.print(escape(made.config), soft_wrap=True)


def _speeds(made: PreparedModel) -> Table:
    table = Table("", "", "ms per picture", "times as fast", "size", box=SIMPLE_HEAD)
    original = made.report.original
    row = (escape(original.what), f"{original.ms_per_picture:.1f}", "1", _size(made.original_bytes))
    table.add_row(escape(made.original), *row)
    for speed in made.report.prepared:
        ratio = original.ms_per_picture / speed.ms_per_picture
        row = (escape(speed.what), f"{speed.ms_per_picture:.1f}", f"{ratio:.1f}", _size(made.size_bytes))
        table.add_row("prepared", *row)
    return table


def _parities(report: PrepareReport) -> Table:
    """Say how far the results stray: the mean and the lowest overlap, the largest differences."""
    columns = ("beside it", "found again", "new", "IoU", "lowest", "confidence", "keypoints")
    table = Table(*columns, box=SIMPLE_HEAD)
    for one in report.parity:
        table.add_row(escape(one.what), f"{one.found} of {one.asked}", str(one.new), *_differences(one))
    return table


def _differences(one: Parity) -> Iterator[str]:
    yield "-" if one.mean_iou is None else f"{one.mean_iou:.4f}"
    yield "-" if one.lowest_iou is None else f"{one.lowest_iou:.4f}"
    yield "-" if one.confidence is None else f"{one.confidence:.4f}"
    yield "-" if one.keypoints_px is None else f"{one.keypoints_px:.2f} px"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _say(text: str, code: int) -> int:
    print(SCRUBBER.scrub(f"healthd models: {text}"), file=sys.stderr, flush=True)  # noqa: T201  the command line prints
    return code
