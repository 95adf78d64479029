"""Faults of RTSP cameras, and of the network between."""

import signal
import subprocess
import time

from benchmarks.chaos.faults import fault
from benchmarks.chaos.stage import HUNG_RECOVERED_SECONDS, NOTICED_SECONDS, RECOVERED_SECONDS, Stage, patient

OUTAGE_SECONDS = 3.0


@fault("server killed", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="connection refused")
def server_killed(stage: Stage) -> None:
    """SIGKILL to the camera's process; three seconds later it runs again on the same port."""
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.kill()
    stage.noticed()
    time.sleep(OUTAGE_SECONDS)
    camera.start()
    stage.recovered()


@fault("server stopped", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS, reason="no image")
def server_stopped(stage: Stage) -> None:
    """SIGSTOP to the camera's process: its kernel still takes connections, nobody answers.

    After eight seconds the process is killed and started again.
    """
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.send(signal.SIGSTOP)
    stage.noticed()
    time.sleep(6)
    camera.kill()
    camera.start()
    stage.recovered()


@fault("server stopped and continued", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS, reason="no image")
def server_continued(stage: Stage) -> None:
    """SIGSTOP to the camera's process, and SIGCONT after it was noticed and three seconds more."""
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.send(signal.SIGSTOP)
    stage.noticed()
    time.sleep(OUTAGE_SECONDS)
    camera.send(signal.SIGCONT)
    stage.recovered()


@fault(
    "link dropped (half-open TCP)",
    noticed=NOTICED_SECONDS,
    recovered=HUNG_RECOVERED_SECONDS,
    reason="no image",
    namespace=True,
)
def link_dropped(stage: Stage) -> None:
    """A packet filter drops whatever comes from the camera or goes to it: no FIN, no RST.

    In a network namespace of its own. After six seconds the packets pass again.
    """
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    _filter(camera.port, "-A")
    stage.noticed()
    time.sleep(4)
    _filter(camera.port, "-D")
    stage.recovered()


def _filter(port: int, order: str) -> None:
    for way in ("--sport", "--dport"):
        rule = ["iptables", order, "INPUT", "-p", "tcp", way, str(port), "-j", "DROP"]
        subprocess.run(rule, check=True, capture_output=True)
