"""Faults of drivers and decoders, and of the processes and threads that they run in.

The patient is a camera of the plugin `chaos-driver`, whose driver does in C what it is told: hang, crash or leak.
"""

import signal
import time
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks.chaos.faults import LateError, SkippedError, fault
from benchmarks.chaos.host_tools import Cgroup
from benchmarks.chaos.stage import (
    HUNG_RECOVERED_SECONDS,
    NOTICED_SECONDS,
    OPEN_SECONDS,
    RECONNECT_SECONDS,
    RECOVERED_SECONDS,
    STALL_SECONDS,
    Stage,
    patient,
)
from healthd.cameras.isolated import MARGIN_SECONDS
from healthd.children import SUPPORTED
from tests.process.daemon import until

CRASHED_SECONDS = 1.0
"""A process that has ended says so by itself: nothing has to be waited for."""
AGAIN_SECONDS = 3.0
"""For so long after it was noticed, each session goes wrong as the first one did."""


def ends(reason: str) -> str:
    """Return the metric that counts what became of the patient's processes."""
    return f'healthd_camera_process_ends_total{{camera="patient",reason="{reason}"}}'


class _Driver:
    """A camera with such a driver, and the file that tells it what to do."""

    def __init__(
        self, stage: Stage, *, isolation: str = "process", prefix: Sequence[str] = (), fps: int = 15, **settings: Any
    ) -> None:
        if isolation == "process" and not SUPPORTED:
            raise SkippedError("cameras have no processes of their own here")
        self._stage = stage
        self._file = stage.folder / "orders"
        self.tell("")
        options = {"orders": str(self._file), "fps": fps}
        watched = patient(plugin="chaos-driver", options=options, isolation=isolation, **settings)
        self.daemon = stage.open({"patient": watched}, prefix=prefix)

    def tell(self, what: str) -> None:
        """Say what it does wrong from now on."""
        beside = self._file.with_suffix(".new")
        beside.write_text(what, encoding="ascii")
        beside.replace(self._file)

    def goes_wrong(self, how: str) -> None:
        """Have it go wrong, again and again for a while, and then be well; no thread may be left of it."""
        self._stage.broken()
        self.tell(how)
        self._stage.noticed()
        time.sleep(AGAIN_SECONDS)
        self.tell("")
        self._stage.mended()
        self._stage.recovered()
        if left := self._stage.stuck_threads():
            self._stage.problem(f"{left} threads are stuck")


def process(stage: Stage, name: str) -> psutil.Process:
    """Return the daemon's child of that name."""
    found = [child for child in stage.process().children(recursive=True) if child.name() == name]
    if len(found) != 1:
        raise LateError(f"{len(found)} processes are called {name}")
    return found[0]


HUNG: dict[str, Any] = {
    "noticed": NOTICED_SECONDS,
    "recovered": HUNG_RECOVERED_SECONDS,
    "reason": "no image within",
    "metric": ends("stalled"),
}


@fault("driver hangs in C", **HUNG)
def driver_hangs(stage: Stage) -> None:
    """A call of the driver does not return, long after its timeout, and hears no SIGTERM; nor do those that open it.

    Its process is killed each time, no thread is left. Three seconds after it was noticed the driver is well.
    """
    _Driver(stage).goes_wrong("hang")


@fault("driver hangs in C and keeps the interpreter's lock", **HUNG)
def driver_holds_lock(stage: Stage) -> None:
    """The same in a call that keeps Python's lock (GIL): no thread of that process does anything any more."""
    _Driver(stage).goes_wrong("hold")


@fault(
    "decoder crashes (SIGSEGV)",
    noticed=CRASHED_SECONDS,
    recovered=RECOVERED_SECONDS,
    reason="SIGSEGV",
    metric=ends("crashed"),
)
def decoder_segv(stage: Stage) -> None:
    """C code reads from address 0 in place of a picture, in each session for three seconds."""
    _Driver(stage).goes_wrong("segv")


@fault(
    "decoder crashes (SIGABRT)",
    noticed=CRASHED_SECONDS,
    recovered=RECOVERED_SECONDS,
    reason="SIGABRT",
    metric=ends("crashed"),
)
def decoder_abort(stage: Stage) -> None:
    """C code calls `abort()` in place of a picture, in each session for three seconds."""
    _Driver(stage).goes_wrong("abort")


LEAKED_MB, LEAK_SECONDS = 250, 20.0


@fault(
    "camera leaks until it is killed (OOM)",
    noticed=LEAK_SECONDS,
    recovered=RECOVERED_SECONDS,
    reason="SIGKILL .*out of memory",
    metric=ends("out_of_memory"),
    limit=120,
)
def camera_out_of_memory(stage: Stage) -> None:
    """Each picture keeps 8 MB, in a control group with room for 250 MB more: the kernel has to kill something.

    It must be the process of that camera, and nothing else.
    """
    group = stage.enter(Cgroup("memory"))
    driver = _Driver(stage, prefix=group.prefix)
    witness = process(stage, "witness").pid
    group.limit_memory(group.used_bytes() + LEAKED_MB * 10**6)
    stage.broken()
    driver.tell("leak")
    stage.noticed()
    driver.tell("")
    stage.mended()
    stage.recovered()
    if process(stage, "witness").pid != witness:
        stage.problem("the process of the other camera was killed as well")


NURSERY_SECONDS = 5.0
"""A new one imports first what cameras need: a third of a second on an idle machine, seconds on one that is busy."""


@fault(
    "nursery killed",
    noticed=CRASHED_SECONDS,
    recovered=RECOVERED_SECONDS + NURSERY_SECONDS,
    event="nursery_died",
    metric=ends("unknown"),
)
def nursery_killed(stage: Stage) -> None:
    """SIGKILL to the process that those of all cameras are forked from: they end with it, and all are opened anew.

    The healthy camera is hit as well: both must be back within the bound. Others are judged from then on.
    """
    driver = _Driver(stage)
    nursery = process(stage, "healthd-nursery")
    stage.broken()
    nursery.kill()
    stage.noticed(lambda seen: "live" not in {seen["state"], driver.daemon.camera("witness")["state"]})
    stage.mended()
    stage.recovered(lambda seen: {seen["state"], driver.daemon.camera("witness")["state"]} == {"live"})
    stage.forgive()
    told = driver.daemon.events("nursery_died")
    if len(told) != 1:
        stage.problem(f"`nursery_died` was said {len(told)} times")
    else:
        stage.said("nursery_died", f"status {told[0]['status']}")
    if process(stage, "healthd-nursery").pid == nursery.pid:
        stage.problem("there is no other nursery")
    time.sleep(3)


MOST_THREADS = 2
TOO_MANY_SECONDS = STALL_SECONDS + RECONNECT_SECONDS + OPEN_SECONDS + MARGIN_SECONDS + 1.0
"""A read that hangs, a pause, an open that hangs, and a second."""


@fault(
    'driver hangs, `isolation = "thread"`',
    noticed=TOO_MANY_SECONDS,
    recovered=RECOVERED_SECONDS,
    event="camera_state",
    reason='threads hang .*isolation = "process"',
    metric='healthd_camera_workers_abandoned_total{camera="patient"}',
)
def threads_abandoned(stage: Stage) -> None:
    """Read on a thread, each call of the driver hangs: there are two threads of it at most (`max_abandoned_workers`).

    The camera is `failed` and says the remedy. Three seconds later the calls return, and it goes on by itself.
    """
    driver = _Driver(stage, isolation="thread", max_abandoned_workers=MOST_THREADS)
    stage.broken()
    driver.tell("wait")
    stage.noticed(lambda seen: seen["state"] == "failed")
    stage.holds(AGAIN_SECONDS, lambda: stage.patient_state() == "failed", "it was tried again while its threads hung")
    if (stuck := stage.stuck_threads()) != MOST_THREADS:
        stage.problem(f"{stuck} threads are stuck, bound {MOST_THREADS}")
    driver.tell("")
    stage.mended()
    stage.recovered()
    if left := stage.stuck_threads():
        stage.problem(f"{left} threads are stuck still")


MOST_CRASHES = 3
LOOP_SECONDS = MOST_CRASHES * (RECONNECT_SECONDS + 1.0)
REST_SECONDS = RECOVERED_SECONDS + AGAIN_SECONDS + 1.0
"""`crash_cooldown_seconds` here: after an order it would be too late for the bound."""


@fault(
    "decoder crashes again and again",
    noticed=LOOP_SECONDS,
    recovered=RECOVERED_SECONDS,
    event="crash_loop",
    reason=f"crashed {MOST_CRASHES} times .*SIGSEGV",
    metric='healthd_camera_crash_loops_total{camera="patient",task="reader"}',
)
def crash_loop(stage: Stage) -> None:
    """Each session ends with SIGSEGV: after the third (`max_crashes = 3`) the camera is `failed`, and is left alone.

    Twice: the first time it is tried again by itself, after `crash_cooldown_seconds = 8`; the second time it is told to
    restart. Its decoder is well by then, and it is live again.
    """
    driver = _Driver(stage, max_crashes=MOST_CRASHES, crash_cooldown_seconds=REST_SECONDS)
    stage.broken()
    driver.tell("segv")
    stage.noticed(lambda seen: seen["state"] == "failed")
    given_up = time.monotonic()
    driver.tell("")
    stage.holds(AGAIN_SECONDS, lambda: stage.patient_state() == "failed", "it was tried again too soon")
    until(lambda: stage.patient_state() == "live", seconds=REST_SECONDS + RECOVERED_SECONDS, what=driver.daemon.story)
    stage.note(f"By itself it was live {time.monotonic() - given_up:.1f} s after it was given up.")
    if len(driver.daemon.events("crash_loop_over")) != 1:
        stage.problem("`crash_loop_over` was not said once")
    driver.tell("segv")
    driver.daemon.until_state("patient", "failed", seconds=LOOP_SECONDS)
    driver.tell("")
    stage.holds(1.0, lambda: stage.patient_state() == "failed", "it was tried again too soon")
    stage.mended()
    driver.daemon.client.post("/api/v1/cameras/patient/restart").raise_for_status()
    stage.recovered()


RATES = (20, 15, 20)
RELOAD_SECONDS = 2.0


@fault(
    "reload that changes another camera",
    noticed=RELOAD_SECONDS,
    recovered=RECOVERED_SECONDS,
    event="config_reloaded",
    metric='healthd_config_reloads_total{outcome="ok"}',
)
def reload_of_another(stage: Stage) -> None:
    """The configuration is read again three times (SIGHUP), each time with another option of the patient alone.

    The patient is made anew, with a process of its own. The healthy camera keeps its process and its session, and those
    who look at it lose no frame.
    """
    driver = _Driver(stage, fps=15)
    daemon, before, witness, slowest = driver.daemon, 15, process(stage, "witness").pid, 0.0
    stage.broken()
    for number, fps in enumerate(RATES, start=1):
        text = daemon.config.read_text(encoding="utf-8")
        changed = daemon.config.with_suffix(".new")
        changed.write_text(text.replace(f"\nfps = {before}\n", f"\nfps = {fps}\n"), encoding="utf-8")
        changed.replace(daemon.config)
        before = fps
        stage.mended()
        daemon.send(signal.SIGHUP)
        until(lambda n=number: len(daemon.events("config_reloaded")) == n, what=daemon.story)
        if number == 1:
            stage.noticed(lambda _: True)
        stage.recovered(lambda seen, n=number: seen["state"] == "live" and seen["reconnects"] == n)
        slowest = max(slowest, stage.outcome.recovered or 0.0)
        time.sleep(1)
    stage.outcome.recovered = slowest
    restarted = [event["restarted"] for event in daemon.events("config_reloaded")]
    if restarted != [["patient"]] * len(RATES):
        stage.problem(f"restarted were {restarted}")
    stage.said("config_reloaded", "restarted: patient")
    if daemon.camera("witness")["reconnects"] or process(stage, "witness").pid != witness:
        stage.problem("the other camera was opened anew")
