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

    def watch(runner: CameraRunner) -> None:
        health, model, predicted = runner.health, runner.model_health, runner.shown.predicted

        def look() -> None:
            nonlocal health, model, predicted
            before, health = health, runner.health
            model_before, model = model, runner.model_health
            if _differs(before, health) or model_before.state != model.state:
                services.events.publish("camera", runner.name, lambda: camera_body(services, runner))
            if (newest := runner.shown.predicted) is not predicted:
                predicted = newest
                if newest is not None:
                    services.events.publish("prediction", runner.name, lambda: _prediction_body(services, newest))

        runner.published.watch(look)
        services.events.look_with(look)  # a picture grows too old while nothing happens

    def on_viewer(viewer: Viewer, what: str) -> None:
        if services.events.heard:
            body = _viewer_body(viewer, what)  # as it is now: it goes on changing
            services.events.publish("viewer", viewer.camera, lambda: body, key=viewer.viewer_id)

    for runner in services.supervisor:
        watch(runner)
    services.viewers.on_change = on_viewer


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
