"""Tells listeners of events: connects what happens to cameras and viewers with the hub, in wire shapes."""

import msgspec

from healthd.api import schemas, shapes
from healthd.api.services import Services
from healthd.cameras.health import Health, State
from healthd.cameras.records import PredictedFrame
from healthd.cameras.runner import CameraRunner
from healthd.cameras.viewers import Viewer


def tell_listeners(services: Services) -> None:
    """From now on, publish what happens. Without a listener nothing is shaped or encoded."""
    watched: dict[str, _Watched] = {}

    def watch(runner: CameraRunner) -> None:
        watched[runner.name] = camera = _Watched(services, runner)
        runner.published.watch(camera.look)

    def welcome(runner: CameraRunner) -> None:
        watch(runner)
        services.events.publish("camera", runner.name, lambda: camera_body(services, runner))

    def look() -> None:
        for gone in [name for name in watched if services.supervisor.get(name) is None]:
            del watched[gone]
        for camera in watched.values():
            camera.look()

    def on_viewer(viewer: Viewer, what: str) -> None:
        if services.events.heard:
            body = _viewer_body(viewer, what)  # as it is now: it goes on changing
            services.events.publish("viewer", viewer.camera, lambda: body, key=viewer.viewer_id)

    for runner in services.supervisor:
        watch(runner)
    services.supervisor.on_added = welcome
    services.events.look_with(look)  # a picture grows too old while nothing happens
    services.viewers.on_change = on_viewer


class _Watched:
    """A camera as listeners were told of it."""

    def __init__(self, services: Services, runner: CameraRunner) -> None:
        self._services = services
        self._runner = runner
        self._health, self._predicted = runner.health, runner.shown.predicted
        self._model_state = runner.model_health.state

    def look(self) -> None:
        """Tell what is new."""
        services, runner = self._services, self._runner
        before, self._health = self._health, runner.health
        model_before, self._model_state = self._model_state, runner.model_health.state
        if _differs(before, self._health) or model_before != self._model_state:
            services.events.publish("camera", runner.name, lambda: camera_body(services, runner))
        if (newest := runner.shown.predicted) is not self._predicted:
            self._predicted = newest
            if newest is not None:
                services.events.publish("prediction", runner.name, lambda: _prediction_body(services, newest))


def _differs(before: Health, now: Health) -> bool:
    """Whether listeners should be told: not of every tenth of a second that a camera has been stalled."""
    if before.state is now.state is State.STALLED:
        return before.since != now.since
    return before != now


def camera_body(services: Services, runner: CameraRunner) -> bytes:
    """Return a camera as JSON, as `/api/v1/cameras/{name}` does."""
    return msgspec.json.encode(shapes.camera(runner, services.viewers.count(runner.name)))


def _prediction_body(services: Services, predicted: PredictedFrame) -> bytes:
    age = services.clock.monotonic() - predicted.frame.captured_monotonic
    said = shapes.camera_prediction(predicted, age_seconds=age)
    return msgspec.json.encode({"camera": predicted.frame.camera, **msgspec.to_builtins(said)})


def _viewer_body(viewer: Viewer, what: str) -> bytes:
    return msgspec.json.encode(
        schemas.ViewerEvent(
            id=viewer.viewer_id,
            kind=viewer.kind,
            camera=viewer.camera,
            what=what,
            reason=viewer.ended.value if viewer.ended else None,
        )
    )
