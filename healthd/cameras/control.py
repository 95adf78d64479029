"""What was ordered of one camera, and whether its two tasks should go on."""

from typing import Literal

from healthd.waiting import Signal

Task = Literal["reader", "predictor"]


class Control:
    """The orders that the two tasks of a camera obey. Event loop only.

    A session belongs to the generation in which it began; raising the generation makes both leave. That of the
    reader is raised by `resumed` too: a session that was told to leave does so, however soon it is wanted again.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.paused = False
        self.ended = False
        """The recording has delivered its last frame."""
        self.failure: str | None = None
        """Why neither task should try again until somebody restarts the camera."""
        self.generation = 0
        self.resumed = 0
        self.refitting = False
        """Both tasks are to end, because the camera is to be made anew."""
        self.changed = Signal()

    @property
    def leaving(self) -> bool:
        """Whether both tasks are to end."""
        return self.stopping or self.refitting

    @property
    def may_pause(self) -> bool:
        """Whether there is a camera to be paused, also one that is about to be made of something else."""
        return not self.stopping and self.failure is None

    @property
    def active(self) -> bool:
        """Whether the camera should run at all."""
        return not self.leaving and self.failure is None

    def wants(self, task: Task) -> bool:
        """Whether a session of this task should be open now. A paused camera keeps its model."""
        return self.active and (task == "predictor" or not (self.paused or self.ended))

    def staying(self, task: Task, generation: int) -> bool:
        """Whether a session of `task` that began in `generation` goes on."""
        return self.wants(task) and generation == self.generation_of(task)

    def generation_of(self, task: Task) -> int:
        """Return the generation of a session that begins now."""
        return self.generation + (self.resumed if task == "reader" else 0)
