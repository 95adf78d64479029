"""Where one fault happens: a daemon, a healthy camera with those who look at it, and what is to be broken.

A fault gets a `Stage`, opens it (`stage.open`), breaks something and says `broken`, waits until it is `noticed`, mends
it and says `mended`, and waits until it has `recovered`. Everything that was started ends with the stage.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from benchmarks.chaos.beside import Beside
from benchmarks.chaos.faults import Fault, LateError, Outcome
from benchmarks.chaos.mistakes import mistakes
from benchmarks.chaos.servers import Camera
from tests.process.daemon import Daemon

STALL_SECONDS = STALE_SECONDS = 2.0
OPEN_SECONDS = 4.0
RECONNECT_SECONDS = 1.0
"""Longest pause between two attempts."""
NOTICED_SECONDS = STALL_SECONDS + 1.0
RECOVERED_SECONDS = RECONNECT_SECONDS + 1.0 + 2.0
"""The next attempt, opening a camera that answers, and two seconds."""
HUNG_RECOVERED_SECONDS = RECOVERED_SECONDS + OPEN_SECONDS + 1.0
"""The same where an attempt may be under way that hangs until its own timeout."""

WITNESS_FPS = 10
BASELINE_SECONDS = 4.0
WATCHED_SECONDS = 3.0
"""So long after it was broken, or forgiven, those beside look at least: a fault may be over before they have looked."""
FEWEST_POLLS = 40
"""Of fewer nobody can say that nobody was hurt; they ask twenty times a second."""
STOP_SECONDS = 5.0
PATIENCE = 3.0
"""So many times its bound is waited for something: how late it is, is worth knowing."""

MODEL = "counter"
"""Of the family `chaos`: it costs next to nothing."""
PLUGIN = Path(__file__).parent / "plugin"

T = TypeVar("T")
Sees = Callable[[dict[str, Any]], object]


def patient(url: object = None, *, plugin: str = "chaos-capture", **settings: Any) -> dict[str, Any]:
    """Return the settings of a camera with short timeouts; `options` are those of its plugin."""
    known = {
        "plugin": plugin,
        "url": None if url is None else str(url),
        "stall_timeout_seconds": STALL_SECONDS,
        "stale_after_seconds": STALE_SECONDS,
        "open_timeout_seconds": OPEN_SECONDS,
        "reconnect_max_seconds": RECONNECT_SECONDS,
    }
    if plugin == "chaos-capture":
        known["options"] = {"model": MODEL, **settings.pop("options", {})}
    return {**known, **settings}


class Stage:
    """One fault's. Lives as long as the block; `outcome` is complete after `close`."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.outcome = Outcome(fault.name)
        self.daemon: Daemon | None = None
        self._stack = contextlib.ExitStack()
        self._beside: Beside | None = None
        self._begun_at = self._broken_at = self._mended_at = self._forgiven_at = 0.0
        self._before: dict[str, float] = {}
        self._forgiven: dict[str, float] = {}
        self._slack_seconds = 0.0
        self._events_before = 0
        self._frame_before = 0

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="healthd-chaos-")))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, exc, tb)

    # -- what a fault does ---------------------------------------------------------------------------------------

    def camera(self, kind: str = "rtsp", **options: Any) -> Camera:
        """Start a camera, see `servers.py`; it ends with the stage."""
        return self._stack.enter_context(Camera(kind, **options))

    def enter(self, thing: contextlib.AbstractContextManager[T]) -> T:
        """Enter something that is to be left with the stage."""
        return self._stack.enter_context(thing)

    def open(
        self,
        cameras: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        prefix: Sequence[str] = (),
        live: Sequence[str] | None = None,
        plugins: Sequence[Path] = (),
        baseline_seconds: float = BASELINE_SECONDS,
        **variables: str,
    ) -> Daemon:
        """Start the daemon with the witness and these cameras, wait until they are live, and look for a while.

        `settings`: more of the daemon's settings; `prefix`: a command that becomes the daemon; `live`: those of the
        cameras that are waited for (None: all); `plugins`: folders with more plugins.
        """
        cameras = cameras or {}
        witness = self.camera("rtsp", fps=WITNESS_FPS)
        known = {**(settings or {})}
        known["cameras"] = {"witness": patient(witness.url), **cameras, **known.get("cameras", {})}
        daemon = self.daemon = self._stack.enter_context(
            Daemon(self.folder, known, plugins=[PLUGIN, *plugins], prefix=prefix, **variables)
        )
        for name in ["witness", *(cameras if live is None else live)]:
            daemon.until_state(name, "live")
        self._beside = self._stack.enter_context(Beside(daemon.url, "witness", model=MODEL))
        time.sleep(0.5)  # the first answers are slower
        self._begun_at = time.monotonic()
        time.sleep(baseline_seconds)
        self._before = self._forgiven = daemon.samples()
        return daemon

    def broken(self) -> None:
        """Say that from now on something is wrong."""
        if "patient" in self._camera_names():
            self._frame_before = self._patient()["frame_id"] or 0
        self._events_before = len(self._running().events())
        self._broken_at = time.monotonic()

    def noticed(self, sees: Sees | None = None) -> dict[str, Any]:
        """Wait until healthd has noticed, and return what it says: by default that the patient is not live."""
        seen = self._until(sees or (lambda camera: camera["state"] != "live"), self.fault.noticed_within, "noticed")
        self.outcome.noticed = time.monotonic() - self._broken_at
        return seen

    def mended(self) -> None:
        """Say that from now on nothing is wrong any more."""
        self._mended_at = time.monotonic()

    def recovered(self, sees: Sees | None = None) -> dict[str, Any]:
        """Wait until healthd has recovered, and return what it says: by default that the patient is live again."""
        if self._mended_at == 0.0:
            self.mended()
        seen = self._until(
            lambda camera: (camera["frame_id"] or 0) > self._frame_before and (sees or _is_live)(camera),
            self.fault.recovered_within,
            "recovered",
        )
        self.outcome.recovered = time.monotonic() - self._mended_at
        return seen

    def holds(self, seconds: float, condition: Callable[[], object], what: str) -> None:
        """Look for so long whether a condition holds; where it does not, that is a problem."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not condition():
                self.problem(what)
                return
            time.sleep(0.05)

    def forgive(self) -> None:
        """Hold nothing against it that others have met so far: it was the whole daemon that was hit."""
        self._forgiven_at = time.monotonic()
        if not self._broken_at:  # what it was before is no measure either
            self._begun_at = self._forgiven_at
        self._forgiven = self._running().samples()

    def slack(self, seconds: float) -> None:
        """Let others wait for so much longer: what was done to the daemon takes it from them."""
        self._slack_seconds = seconds

    def said(self, event: str, text: str = "") -> None:
        """Put into the table what the log says, where the row has found it by itself."""
        self.outcome.log = f"{event}: {self._plain(text)}".rstrip(": ")

    def note(self, text: str) -> None:
        """Add what else is worth knowing."""
        self.outcome.notes.append(text)

    def problem(self, text: str) -> None:
        """Something is not as it must be."""
        self.outcome.problems.append(text)

    def hold_log(self, text: str) -> None:
        """Hold that a log tells of no error that the fault does not name: what breaks outside is no bug of healthd."""
        for mistake in mistakes(text, named={self.fault.event or "", *self.fault.errors}):
            self.problem(f"log: {self._plain(mistake)}")

    def process(self) -> psutil.Process:
        """Return the daemon's process."""
        return psutil.Process(self._running().pid)

    def memory_mb(self) -> float:
        """Return how much memory the daemon and its children hold, in MB."""
        total = 0.0
        for one in [self.process(), *self.process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss / 1e6
        return total

    def cpu_seconds(self) -> float:
        """Return how much CPU the daemon and its children have used."""
        total = 0.0
        for one in [self.process(), *self.process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(one.cpu_times()[:2])
        return total

    def patient_state(self) -> str:
        """Return the state that the patient is in."""
        return str(self._patient()["state"])

    def stuck_threads(self) -> int:
        """Return how many threads of the daemon are given up and have not come back."""
        samples = self._running().samples()
        return int(sum(value for name, value in samples.items() if name.startswith("healthd_camera_workers_stuck")))

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self) -> Outcome:
        """Have everybody leave, stop the daemon, and hold what came against the bounds."""
        outcome = self.outcome
        if self.daemon is None:
            self._judge_times()
            return outcome
        daemon = self.daemon
        if self._beside is not None:
            time.sleep(max(0.0, max(self._broken_at, self._forgiven_at) + WATCHED_SECONDS - time.monotonic()))
            ended = time.monotonic()
            time.sleep(0.2)
            self._beside.leave()
            outcome.others = self._beside.compared(self._begun_at, self._broken_at, ended, forgiven=self._forgiven_at)
        self._judge_times()
        self._judge_others()
        self._judge_accounts(daemon)
        self._judge_log(daemon)
        if daemon.returncode is None:
            code, seconds = daemon.stop(seconds=4 * STOP_SECONDS)
            left = daemon.left_behind()
            if code != 0 or seconds > STOP_SECONDS or left:
                self.problem(f"its stop: exit code {code} after {seconds:.1f} s, left behind: {', '.join(left) or '-'}")
        daemon.until_read()
        self.hold_log(daemon.stderr)
        return outcome

    def _judge_times(self) -> None:
        fault, outcome = self.fault, self.outcome
        for what, bound, took in (
            ("noticed", fault.noticed_within, outcome.noticed),
            ("recovered", fault.recovered_within, outcome.recovered),
        ):
            if bound is not None and took is None:
                self.problem(f"not {what}")
            elif bound is not None and took is not None and took > bound:
                self.problem(f"{what} in {took:.1f} s, bound {bound:g} s")

    def _judge_others(self) -> None:
        """Nothing may be lost, and nobody may wait for much longer than before the fault."""
        seen = self.outcome.others
        if not seen:
            return
        if seen["polls"] < FEWEST_POLLS:
            self.problem(f"others: {seen['polls']:.0f} polls are too few to tell, at least {FEWEST_POLLS}")
        for what in ("polls_failed", "infers_failed", "stream_breaks"):
            if seen[what]:
                self.problem(f"others: {seen[what]:.0f} {what.replace('_', ' ')}")
        excused = int(self._slack_seconds * WITNESS_FPS)
        if seen["frames_skipped"] > 1 + excused + seen["frames"] // 50:
            self.problem(f"others: {seen['frames_skipped']:.0f} of {seen['frames']:.0f} frames skipped")
        slack = 1e3 * self._slack_seconds
        usual = max(seen["gap_before_ms"], 1e3 / WITNESS_FPS)
        bound = usual + 2e3 / WITNESS_FPS + slack
        if seen["gap_ms"] > bound:
            self.problem(f"others: {seen['gap_ms']:.0f} ms without a frame, bound {bound:.0f} ms")
        bound = 2 * seen["poll_p99_before_ms"] + 50 + slack
        if seen["poll_p99_ms"] > bound:
            self.problem(f"others: p99 of polls {seen['poll_p99_ms']:.0f} ms, bound {bound:.0f} ms")

    def _judge_accounts(self, daemon: Daemon) -> None:
        """Hold that the accounts of every camera close, and that the witness has lost nothing."""
        if daemon.returncode is not None:
            return
        after = daemon.samples()
        if self.fault.metric:
            grown = sum(
                value - self._before.get(name, 0.0) for name, value in after.items() if _is_of(name, self.fault.metric)
            )
            self.outcome.metric = f"{self.fault.metric} +{grown:g}"
            if grown <= 0:
                self.problem(f"{self.fault.metric} has not grown")
        unaccounted = sum(abs(_unaccounted(after, name)) for name in self._camera_names())
        dropped = sum(
            after.get(f'healthd_camera_frames_dropped_total{{camera="witness",reason="{reason}"}}', 0.0)
            - self._forgiven.get(f'healthd_camera_frames_dropped_total{{camera="witness",reason="{reason}"}}', 0.0)
            for reason in ("lost", "failed", "backlog", "invalid")
        )
        self.outcome.lost = {"witness_dropped": dropped, "unaccounted": unaccounted}
        if dropped or unaccounted:
            self.problem(f"frames: the witness lost {dropped:g}, {unaccounted:g} not accounted for")

    def _judge_log(self, daemon: Daemon) -> None:
        """Find the line that tells the operator."""
        if self.fault.event is None or self.outcome.log:
            return
        said = [event for event in daemon.events()[self._events_before :] if event["event"] == self.fault.event]
        if "patient" in self._camera_names():
            said = [event for event in said if event.get("camera") != "witness"]
        told = [str(event.get("reason") or event.get("error") or event.get("text") or "") for event in said]
        fitting = [reason for reason in told if re.search(self.fault.reason, reason)]
        if not fitting:
            self.problem(f"no `{self.fault.event}` that says /{self.fault.reason}/, only: {sorted(set(told))}")
            return
        self.outcome.log = f"{self.fault.event}: {self._plain(fitting[0])}".rstrip(": ")

    def _plain(self, text: str) -> str:
        """Return a reason without what differs from run to run."""
        text = text.replace(str(self.folder), "...")
        return re.sub(r" @ 0x[0-9a-f]+", "", re.sub(r"\bport \d+", "port PORT", text))

    # -- helpers -------------------------------------------------------------------------------------------------

    def _until(self, sees: Sees, bound: float | None, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE * (bound if bound is not None else 10.0)
        while True:
            seen = self._patient()
            if sees(seen):
                return seen
            if time.monotonic() > deadline:
                raise LateError(f"not {what} within {PATIENCE:g} times its bound: {seen['state']}, {seen['reason']}")
            time.sleep(0.02)

    def _patient(self) -> dict[str, Any]:
        name = "patient" if "patient" in self._camera_names() else "witness"
        return self._running().camera(name)

    def _camera_names(self) -> list[str]:
        return [
            name.partition('camera="')[2].partition('"')[0]
            for name in self._before
            if name.startswith("healthd_camera_frames_read_total{")
        ]

    def _running(self) -> Daemon:
        if self.daemon is None:
            raise RuntimeError("the stage was not opened")
        return self.daemon


def _is_live(camera: dict[str, Any]) -> bool:
    return bool(camera["state"] == "live")


def _is_of(sample: str, metric: str) -> bool:
    """Whether a sample is one of a metric: its name begins so, and it has the labels that are given."""
    name, _, labels = metric.rstrip("}").partition("{")
    return sample.startswith(name) and all(label in sample for label in labels.split(",") if label)


def _unaccounted(samples: Mapping[str, float], camera: str) -> float:
    """Return how many frames a scrape does not account for."""
    read = samples[f'healthd_camera_frames_read_total{{camera="{camera}"}}']
    known = samples[f'healthd_camera_frames_predicted_total{{camera="{camera}"}}']
    known += samples[f'healthd_camera_frames_in_hand{{camera="{camera}"}}']
    dropped = f'healthd_camera_frames_dropped_total{{camera="{camera}",'
    return read - known - sum(value for name, value in samples.items() if name.startswith(dropped))
