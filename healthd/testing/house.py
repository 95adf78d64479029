"""A camera that runs as it does in the daemon, for tests that know nothing of asyncio."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from healthd.cameras.health import Health
from healthd.cameras.records import ModelHealth, NotLive
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource
from healthd.frames import Frame
from healthd.models.manager import ModelManager
from healthd.models.model import Prediction
from healthd.testing.fakes import FakeClock, make_runner

T = TypeVar("T")
_STOP_SECONDS = 5.0


class RunningCamera:
    """One source in healthd's own runner: reader, predictor, retries and health, on an event loop of its own.

    Its bounds are short (0.3 s without an image is a stall, retries come within 0.5 s); any setting of `[cameras.NAME]`
    may be given. Lives as long as its `with` block.
    """

    def __init__(
        self,
        source: CameraSource,
        *,
        models: ModelManager | None = None,
        clock: FakeClock | None = None,
        **settings: Any,
    ) -> None:
        self.source = source
        self.clock = clock or FakeClock()
        self._models = models
        self._settings = settings
        self._runner: CameraRunner | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"test-{source.name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait(_STOP_SECONDS)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._runner is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._runner.request_stop)
        self._thread.join(_STOP_SECONDS)
        if kind is None and self._thread.is_alive():
            raise AssertionError(f"{self.source.name} did not stop within {_STOP_SECONDS:g} s")

    @property
    def health(self) -> Health:
        """State, since when, and the reason."""
        return self._ask(lambda runner: runner.health)

    @property
    def model_health(self) -> ModelHealth:
        """How its model does."""
        return self._ask(lambda runner: runner.model_health)

    @property
    def frame(self) -> Frame | None:
        """The newest frame; None while there is none."""
        return self._ask(lambda runner: runner.frame)

    @property
    def prediction(self) -> Prediction:
        """The newest prediction of a live camera.

        Raises:
            NotLive: there is none.
        """
        return self._ask(lambda runner: runner.predicted_frame().prediction)

    @property
    def reconnects(self) -> int:
        """Sessions after the first one."""
        return self._ask(lambda runner: runner.reconnects)

    def wait_for(self, condition: Callable[["RunningCamera"], object], *, seconds: float = 5.0) -> None:
        """Wait until the condition holds; AssertionError, with the camera's state, if it does not in time.

        A condition that asks for a picture or a prediction that is not there yet does not hold yet.
        """
        until = time.monotonic() + seconds

        def holds() -> bool:
            with contextlib.suppress(NotLive):
                return bool(condition(self))
            return False

        while not holds():
            if time.monotonic() > until:
                health = self.health
                raise AssertionError(f"not within {seconds:g} s; the camera is {health.state}: {health.reason}")
            time.sleep(0.01)

    def wait_until(self, state: str, *, seconds: float = 5.0) -> None:
        """Wait until the camera is in this state, e.g. `live`, `reconnecting`, `failed`."""
        self.wait_for(lambda camera: camera.health.state == state, seconds=seconds)

    def _ask(self, question: Callable[[CameraRunner], T]) -> T:
        """Answer on the event loop, where alone a runner may be asked; after its end, here."""
        runner, loop = self._runner, self._loop
        if runner is None or loop is None:
            raise AssertionError("it runs inside its `with` block only")
        if not self._thread.is_alive():
            return question(runner)

        async def ask() -> T:
            return question(runner)

        return asyncio.run_coroutine_threadsafe(ask(), loop).result(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:  # noqa: BLE001  raised again in the test's own thread, if it waits there
            self._error = exc
        finally:
            self._begun.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._runner = make_runner(self.source, clock=self.clock.clock, models=self._models, **self._settings)
        self._begun.set()
        await self._runner.run()
