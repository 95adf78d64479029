"""The budget of one frame: what each step on its way takes, alone and unhurried, in milliseconds and bytes.

python -m benchmarks.budget [ROUNDS]

It prints the table of docs/performance.md. Each step is done again and again on a street of 720p at 2 Mbit/s, in turn
with the others; of each the best round counts. What a thread does is measured by calling healthd's own
code; publishing is the whole of what a camera without pixels costs, from its thread to the event loop and back.
"""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import cv2
import msgspec
import structlog

from benchmarks.assets import pose_network, street
from healthd.api import shapes
from healthd.cameras.jpeg import encode_image
from healthd.cameras.motion import MotionDetector
from healthd.cameras.records import PredictedFrame
from healthd.cpus import usable_cpus
from healthd.frames import Frame
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Prediction
from healthd.worker import Worker

TIMES = 5
_FILM = [cv2.CAP_PROP_N_THREADS, 1]

Step = Callable[[], object]


def _milliseconds(step: Step) -> tuple[float, float]:
    """Return what a step takes by the clock, and of all cores together."""
    begun, spent = time.perf_counter(), time.process_time()
    for _ in range(TIMES):
        step()
    return 1000 * (time.perf_counter() - begun) / TIMES, 1000 * (time.process_time() - spent) / TIMES


class Film:
    """The street, decoded by one thread as a live camera's, from its beginning when it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, _FILM)
        self.bytes_per_frame = path.stat().st_size / self.capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def grab(self) -> None:
        """Decode the next picture."""
        if not self.capture.grab():
            self.capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG, _FILM)
            self.capture.grab()

    def convert(self) -> object:
        """Return it as pixels."""
        return self.capture.retrieve()


@contextmanager
def _sending() -> Iterator[Callable[[bytes], None]]:
    """Give a way to send to somebody on this machine who reads whatever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        buffer = bytearray(1 << 20)

        def read() -> None:
            while theirs.recv_into(buffer):
                pass

        threading.Thread(target=read, daemon=True).start()
        yield ours.sendall


def _handed_over(loop: asyncio.AbstractEventLoop, worker: Worker) -> Step:
    """Return a call to a worker and back, once for the reader and once for the predictor."""

    async def both() -> None:
        await worker.call(lambda: None, timeout=5, late="late")
        await worker.call(lambda: None, timeout=5, late="late")

    return lambda: loop.run_until_complete(both())


def _body(frame: Frame, prediction: Prediction) -> bytes:
    said = shapes.camera_prediction(PredictedFrame(frame, prediction, datetime.now(UTC)), age_seconds=0.0)
    return msgspec.json.encode(said)


def budget(rounds: int) -> dict[str, tuple[float, float, str]]:
    """Return the milliseconds of each step, by the clock and of all cores, and the bytes it reads and writes."""
    from healthd_yolo.envelope import detections  # noqa: PLC0415
    from healthd_yolo.family import YoloFamily  # noqa: PLC0415

    film, network, params = Film(street()), pose_network(), InferenceParams()
    film.grab()
    image = film.capture.retrieve()[1]
    manager = ModelManager({"yolo": YoloFamily()}, directory=network.parent, threads=usable_cpus())
    loop, worker, motion = asyncio.new_event_loop(), Worker("budget"), MotionDetector(threshold=12)
    worker.start()
    with manager.use("yolo", network.name) as shared, _sending() as send:
        prediction = shared.predict(image, params)  # type: ignore[arg-type]
        model = shared._model
        plan = model._plan(image.shape[:2])
        output, info = model._network.infer(plan.canvas), model._network.file.info
        rows = model._decode(output, params, None)
        frame = Frame("budget", 1, image, datetime.now(UTC), time.monotonic())  # type: ignore[arg-type]
        jpeg, said = encode_image(frame.image, 75), _body(frame, prediction)

        def decode() -> object:
            rows = model._decode(output, params, None)
            return detections(rows, labels=model.labels, letterbox=plan.letterbox, keypoint_shape=info.keypoint_shape)

        size = {"bgr": image.nbytes / 1e6, "input": plan.canvas.nbytes / 1e6, "output": output.nbytes / 1e6}
        steps: dict[str, tuple[Step, str]] = {
            "decode (`grab`)": (film.grab, f"{film.bytes_per_frame / 1e3:.0f} kB in, {size['bgr'] / 2:.1f} MB out"),
            "convert (`retrieve`)": (film.convert, f"{size['bgr'] / 2:.1f} MB in, {size['bgr']:.1f} MB out"),
            "look for motion": (lambda: motion.look(frame.image, time.monotonic()), f"{size['bgr']:.1f} MB in"),
            "letterbox": (
                lambda: plan.letterbox.draw(frame.image, plan.canvas),
                f"{size['bgr']:.1f} MB in, {size['input']:.1f} MB out",
            ),
            f"infer ({network.stem}, {model._network.precision})": (
                lambda: model._network.infer(plan.canvas),
                f"{size['input']:.1f} MB in, {size['output']:.1f} MB out",
            ),
            f"decode boxes ({len(rows.boxes)} people)": (decode, f"{size['output']:.1f} MB looked at"),
            "publish: to two threads and back": (_handed_over(loop, worker), "references"),
            "prediction as JSON": (lambda: _body(frame, prediction), f"{len(said) / 1e3:.1f} kB out"),
            "encode (JPEG, quality 75)": (
                lambda: encode_image(frame.image, 75),
                f"{size['bgr']:.1f} MB in, {len(jpeg) / 1e3:.0f} kB out",
            ),
            "send to one viewer": (lambda: send(jpeg), f"{len(jpeg) / 1e3:.0f} kB"),
        }
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, (step, _) in steps.items():
                took[name].append(_milliseconds(step))
    worker.abandon()
    loop.close()
    best = {name: [min(each) for each in zip(*took[name], strict=True)] for name in steps}
    return {name: (best[name][0], best[name][1], moved) for name, (_, moved) in steps.items()}


def main() -> None:
    """Measure and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print("| step | ms | ms of all cores | bytes |\n| --- | --- | --- | --- |")
    for name, (ms, of_cores, moved) in budget(rounds).items():
        print(f"| {name} | {ms:.2f} | {of_cores:.2f} | {moved} |")


if __name__ == "__main__":
    main()
