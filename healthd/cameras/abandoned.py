"""The threads of one camera that were given up in a call that did not return."""

import structlog

from healthd.worker import Worker

log = structlog.get_logger(__name__)


class Abandoned:
    """Counts them, and knows which have not come back. Event loop only."""

    def __init__(self) -> None:
        self.total = 0
        self._workers: list[Worker] = []

    @property
    def stuck(self) -> int:
        """How many have not come back."""
        self._workers = [worker for worker in self._workers if worker.alive]
        return len(self._workers)

    def add(self, worker: Worker) -> None:
        """Give one up."""
        self.total += 1
        self._workers.append(worker)
        log.warning("worker_abandoned", worker=worker.name, stuck=self.stuck)

    def told(self, last: str, *, isolated: bool) -> str:
        """Say, once there are too many, what can be done; `last` is why the last one was given up."""
        reading, predicting = (
            any(worker.name.endswith(task) for worker in self._workers) for task in ("-reader", "-predictor")
        )
        remedy = 'set isolation = "process", which ends what hangs, or ' if reading and not isolated else ""
        remedy += 'set models.isolation = "process", which ends models that hang, or ' if predicting else ""
        return (
            f"{self.stuck} threads hang in calls that have not returned (last: {last}); "
            f"it goes on when one returns; if none does, {remedy}mend the camera or its driver and restart healthd"
        )
