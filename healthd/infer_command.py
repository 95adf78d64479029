"""`healthd infer`: pictures, folders, videos and zips through a model, without a daemon; a line of JSON for each."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from healthd.api.jobs import written
from healthd.api.shapes import completed
from healthd.cameras.annotate import annotated_jpeg
from healthd.daemon import load_installed_plugins
from healthd.errors import BusyError, HealthdError, LoadError, ModelError, SettingsError
from healthd.frames import Image
from healthd.jobs.errors import MediaError
from healthd.jobs.media import Item, Limits, Media, kind_of, open_media
from healthd.jobs.run import result_line
from healthd.metrics import Metrics
from healthd.models.catalog import Catalog
from healthd.models.factory import make_manager
from healthd.models.inference import Inference
from healthd.models.model import InferenceParams, Prediction
from healthd.models.tally import Tally
from healthd.redact import SCRUBBER
from healthd.settings import Settings
from healthd.waiting import Backoff
from healthd.worker import Worker

T = TypeVar("T")
OK, SOME_FAILED, WRONG = 0, 1, 2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_UNFIT = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


@dataclass(frozen=True, slots=True, kw_only=True)
class InferOptions:
    """What is asked of one call."""

    inputs: tuple[str, ...]
    model: str | None
    """A name in `models.directory`, or a path; None: `models.default`."""
    params: InferenceParams
    every: int = 1
    output: Path | None = None
    """None: standard output."""
    overwrite: bool = False
    annotate: Path | None = None


@dataclass(slots=True)
class _Counts:
    done: int = 0
    failed: int = 0
    begun: float = field(default_factory=time.monotonic)


class _Stopped(Exception):  # noqa: N818  no error: somebody wants it to end
    def __init__(self, number: int) -> None:
        self.number = number


async def infer(settings: Settings, options: InferOptions) -> int:
    """Work on all inputs; return the exit code. What was written by then is whole, whenever it ends."""
    missing = [text for text in options.inputs if kind_of(Path(text)) is None]
    if missing:
        return _say(f"no video, zip, directory or picture: {', '.join(missing)}", WRONG)
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stop, number)
    try:
        async with _Session(settings, options, stop) as session:
            counts = await session.work()
    except _Stopped as exc:
        return 128 + exc.number
    except SettingsError as exc:
        return _say(str(exc), WRONG)
    except HealthdError as exc:
        return _say(str(exc), SOME_FAILED)
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        return _say(f"{exc.filename or 'the results'}: {exc.strerror or exc}", SOME_FAILED)
    seconds = time.monotonic() - counts.begun
    return _say(
        f"{counts.done} picture{'' if counts.done == 1 else 's'}, {counts.failed} failed, {seconds:.1f} s",
        SOME_FAILED if counts.failed else OK,
    )


class _Session:
    """One call: the model, the output, and a thread that reads. Lives as long as its block."""

    def __init__(self, settings: Settings, options: InferOptions, stop: "asyncio.Future[int]") -> None:
        self._settings = settings
        self._options = options
        self._stop = stop
        self._stack = AsyncExitStack()
        self._worker = Worker("infer-read")
        self._drawer = Worker("infer-draw")
        self._limits = Limits(settings.inference.max_upload_bytes, settings.inference.max_pixels)
        self._taken: set[Path] = set()
        self._counts = _Counts()
        self._inference: Inference
        self._model_id: str
        self._output: BinaryIO
        self._progress: Progress | None = None

    async def __aenter__(self) -> Self:
        options = self._options
        self._inference, self._model_id = await _models(self._settings, options.model)
        self._stack.callback(self._inference.stop)
        if options.output is None:
            self._output = sys.stdout.buffer
        else:
            try:
                self._output = self._stack.enter_context(options.output.open("wb" if options.overwrite else "xb"))
            except FileExistsError:
                raise SettingsError(
                    f"{options.output} is there already: name another file, or say --overwrite"
                ) from None
        if options.annotate is not None:
            options.annotate.mkdir(parents=True, exist_ok=True)
        for worker in (self._worker, self._drawer):
            worker.start()
            self._stack.callback(worker.close)
        if sys.stderr.isatty():
            self._progress = self._stack.enter_context(
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[rate]}"),
                    TimeRemainingColumn(),
                    console=Console(stderr=True),
                    transient=True,
                )
            )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def work(self) -> _Counts:
        """Work on one input after the other; one that is broken fails by itself."""
        for text in self._options.inputs:
            try:
                await self._input(text)
            except MediaError as exc:
                self._counts.done += 1
                self._counts.failed += 1
                self._write(text, json.dumps({"error": SCRUBBER.scrub(str(exc))}).encode())
        return self._counts

    async def _input(self, text: str) -> None:
        path = Path(text)
        async with self._opened(path) as media:
            items = media.items()
            task = self._progress.add_task(path.name, total=media.total, rate="") if self._progress else None
            begun, index = time.monotonic(), 0
            coming = self._next(items)
            while (item := await self._unless_stopped(coming)) is not None:
                coming = self._next(items)  # read while the model is at work
                try:
                    await self._picture(text, path, index, item)
                except BaseException:
                    coming.cancel()
                    raise
                index += 1
                if self._progress is not None and task is not None:
                    rate = f"{index / (time.monotonic() - begun):.1f}/s"
                    self._progress.update(task, completed=index, total=media.total, rate=rate)
            if media.note is not None:
                _say(f"{text}: {media.note}", OK)

    async def _picture(self, text: str, path: Path, index: int, item: Item) -> None:
        error = item.error
        if item.image is not None:
            try:
                said = await self._unless_stopped(asyncio.ensure_future(self._predict(item.image)))
                envelope = written(said, item.image, said.model_id, str(said.metadata["task"]))
                if self._options.annotate is not None:
                    await self._annotate(path, item, item.image, said)
                self._write(text, result_line(index, item, envelope=envelope))
            except LoadError:
                raise
            except ModelError as exc:
                error = str(exc)
        if error is not None:
            self._write(text, result_line(index, item, error=error))
            self._counts.failed += 1
        self._counts.done += 1

    async def _predict(self, image: Image) -> Prediction:
        pauses = Backoff(first_seconds=0.1, longest_seconds=2.0)
        while True:
            try:
                async with self._inference.seat(self._model_id, self._options.params, queued=False) as seat:
                    said = await seat.predict(image)
                    return completed(said, image, model_id=seat.entry.model_id, task=seat.model.task)
            except BusyError:
                await asyncio.sleep(pauses.next())

    async def _annotate(self, path: Path, item: Item, image: Image, said: Prediction) -> None:
        target = self._target(path, item)

        def draw() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(annotated_jpeg(image, said, quality=self._settings.snapshots.quality))

        await self._drawer.call(draw, timeout=None)

    def _target(self, path: Path, item: Item) -> Path:
        """Say where a drawn picture goes: below the folder, whatever names a zip has in it; none is written twice."""
        folder = self._options.annotate or Path()
        if item.frame is not None:
            target = folder / path.stem / f"{item.frame:06d}.jpg"
        else:
            name = item.name or "picture"
            parts = [_UNFIT.sub("_", part) for part in PurePosixPath(name).parts if part not in {"/", "..", "."}]
            base = folder if kind_of(path) == "picture" else folder / path.stem
            target = base.joinpath(*(parts or ["picture"]))
            target = target if target.suffix.lower() in {".jpg", ".jpeg"} else target.with_name(f"{target.name}.jpg")
        first, number = target, 1
        while target in self._taken:
            number += 1
            target = first.with_name(f"{first.stem}-{number}{first.suffix}")
        self._taken.add(target)
        return target

    def _write(self, text: str, line: bytes) -> None:
        """Write one whole line."""
        self._output.write(b'{"input": ' + json.dumps(text).encode() + b", " + line[1:] + b"\n")
        self._output.flush()

    @asynccontextmanager
    async def _opened(self, path: Path) -> AsyncIterator[Media]:
        media = await self._worker.call(
            lambda: open_media(path, limits=self._limits, every=self._options.every), timeout=None
        )
        try:
            yield media
        finally:
            if not self._worker.busy:  # else it still reads: the process ends, and the file with it
                media.close()

    def _next(self, items: Iterator[Item]) -> "asyncio.Future[Item | None]":
        return asyncio.ensure_future(self._worker.call(lambda: next(items, None), timeout=None))

    async def _unless_stopped(self, waited: "asyncio.Future[T]") -> T:
        either: set[asyncio.Future[Any]] = {waited, self._stop}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._stop.done():
            waited.cancel()
            raise _Stopped(self._stop.result())
        return waited.result()


async def _models(settings: Settings, model: str | None) -> tuple[Inference, str]:
    """Return what answers, and the id of the model, which may be a path here: whoever types it owns the machine."""
    plugins = await load_installed_plugins(safe_mode=settings.server.safe_mode)
    families = {plugin.name: plugins.made[plugin.target] for plugin in plugins.families if plugin.target is not None}
    tally, metrics = Tally(), Metrics()
    catalog = Catalog(families, directory=settings.models.directory, default=model or settings.models.default)
    if model is None and settings.models.default is None:
        raise SettingsError("no model was named and none is configured: say --model, or set models.default")
    entry = catalog.configured(None)
    if entry is None:
        raise SettingsError(f"no installed plugin has a family for this model: {model or settings.models.default}")
    models = make_manager(settings, families, tally, metrics)
    return Inference(models, catalog, metrics=metrics, tally=tally), entry.model_id


def _on_signal(stop: "asyncio.Future[int]", number: int) -> None:
    """Ask for the end; who asks twice does not want to wait."""
    if stop.done():
        os._exit(128 + number)
    stop.set_result(number)


def _say(text: str, code: int) -> int:
    print(SCRUBBER.scrub(f"healthd infer: {text}"), file=sys.stderr)  # noqa: T201  the command line prints
    return code
