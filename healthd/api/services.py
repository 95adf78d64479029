"""What the API works with: the parts of the house, built in `daemon.py`."""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from litestar.di import NamedDependency

from healthd.api.auth import Authenticator
from healthd.api.connection import DoorCounts
from healthd.api.decoder import PictureDecoder
from healthd.api.socket_session import SocketCounts
from healthd.api.uploads import Uploads
from healthd.cameras.events import EventHub
from healthd.cameras.history import History
from healthd.cameras.runner import CameraRunner
from healthd.cameras.signs import SignCache
from healthd.cameras.source import CameraSource
from healthd.cameras.supervisor import Supervisor
from healthd.cameras.viewers import Viewers
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.jobs.service import Jobs
from healthd.log_ring import RECENT, LogRing
from healthd.metrics import Metrics
from healthd.models.inference import Inference
from healthd.models.manager import ModelManager
from healthd.models.model import ModelFamily
from healthd.plugins import Plugins
from healthd.settings import CameraSettings, Settings
from healthd.settings_changes import Reloaded
from healthd.tls import Tls

READY_WITHIN_SECONDS = 30.0
"""A camera or a model that has come to no result by then no longer keeps the others from their traffic."""


class NewCamera(Protocol):
    """Makes the runner of a camera, which does not run yet."""

    def __call__(
        self, name: str, camera: CameraSettings, source: CameraSource | str, *, quality: int, last_frame_id: int = 0
    ) -> CameraRunner:
        """`source`: or why there is none; `quality`: where the camera says none."""


Readiness = Literal["starting", "ready", "draining"]


@dataclass(kw_only=True)
class Services:
    """The parts of one daemon. Lives as long as the daemon; valid after the drain too."""

    settings: Settings
    supervisor: Supervisor
    models: ModelManager
    inference: Inference
    jobs: Jobs
    sources: Plugins[type[CameraSource]]
    families: Plugins[type[ModelFamily]]
    metrics: Metrics
    auth: Authenticator
    clock: Clock = SYSTEM_CLOCK
    boot_id: str = field(default_factory=lambda: secrets.token_hex(4))
    """Makes ETags of this process differ from those of any other."""
    draining: bool = False
    viewers: Viewers
    events: EventHub
    signs: SignCache
    log_ring: LogRing = RECENT
    new_camera: NewCamera | None = None
    """None: the cameras stay what they are."""
    reload: Callable[[], Awaitable[Reloaded]] | None = None
    """Reads the configuration again; None where there is nobody who could."""
    restart_needed: tuple[str, ...] = ()
    """Settings of the file that are others than those in effect, and count from the next start of the daemon on."""
    reloads: Counter[str] = field(default_factory=lambda: Counter({"ok": 0, "failed": 0}))
    on_changed: list[Callable[[], None]] = field(default_factory=list)
    """Called after cameras, keys or limits have changed."""
    history: History = field(init=False)
    uploads: Uploads = field(init=False)
    decoder: PictureDecoder = field(init=False)
    sockets: SocketCounts = field(default_factory=SocketCounts)
    doors: DoorCounts = field(default_factory=DoorCounts)
    tls: Tls | None = None
    """None: plain HTTP."""
    started_at: datetime = field(init=False)
    _started: float = field(init=False)
    _was_ready: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.auth.sessions.on_closed = self.viewers.end_page
        self.auth.sessions.is_watching = self.viewers.has_page
        self.viewers.on_left = lambda page: self.auth.sessions.note_used(page.session_id)
        self.started_at = self.clock.now()
        self._started = self.clock.monotonic()
        self.history = History(self.supervisor, clock=self.clock)
        limits = self.settings.inference
        self.uploads = Uploads(most=limits.max_uploads, most_of_one=limits.max_uploads_per_client)
        self.decoder = PictureDecoder(max_pixels=limits.max_pixels, observe=self.metrics.decode_seconds.observe)

    @property
    def uptime_seconds(self) -> float:
        """Seconds since the parts were built."""
        return self.clock.monotonic() - self._started

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What keeps the daemon from being ready; empty once it is, for good."""
        if self._was_ready or self.uptime_seconds > READY_WITHIN_SECONDS:
            return ()
        return (*self.supervisor.waiting_for, *self.inference.waiting_for)

    @property
    def readiness(self) -> Readiness:
        """Whether the daemon should get traffic. Once ready it stays so until it drains, whatever cameras do."""
        if self.draining:
            return "draining"
        self._was_ready = self._was_ready or not self.waiting_for
        return "ready" if self._was_ready else "starting"


House: TypeAlias = NamedDependency[Services]
"""The parts, as a handler asks for them: by a parameter named `services`."""
