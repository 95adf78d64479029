"""The tasks of `healthd models prepare`, each in a process of its own: `python -m healthd_yolo.prepare_child`.

The first line of standard input is the task; its end is the end of this process. Standard output is lines of JSON for
the parent; whatever the vendors print goes to standard error.
"""

import errno
import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from healthd.cpus import usable_cpus
from healthd.errors import ModelError, SettingsError
from healthd.frames import Image
from healthd.models.manifest import checksum
from healthd.models.model import Model, ModelSpec
from healthd.models.prepare import Parity, PrepareReport, Speed
from healthd_yolo.family import YoloFamily
from healthd_yolo.metadata import TASKS
from healthd_yolo.model_options import YoloModelOptions
from healthd_yolo.openvino_file import read_file
from healthd_yolo.parity import PARAMS, Changes, beyond
from healthd_yolo.sample_pictures import Sample, images, noise

Advance = Callable[[int, int], None]

_ROUNDS = 8
_SIZES = 3
"""Sizes of pictures that the engine has room for, beside that of its warm-up."""
_TIMED = 4
"""Pictures that are timed; the models take turns, and the best of each for each picture counts."""
_SECONDS = 10.0
"""So long is timed at most, once two rounds are done."""
_FEW = 10
_BUSY = 2.0
"""Load for each processor, from which on what is measured means little."""
_FULL_BYTES = 1_000_000
"""A disk with less than that is full."""


def download(advance: Advance, *, name: str, directory: str) -> Mapping[str, Any]:
    """Download weights that ultralytics publishes into the models directory."""
    from healthd_yolo.ultralytics_model import download_weights  # noqa: PLC0415

    del advance
    spec = ModelSpec(name, None, Path(directory), YoloModelOptions())
    return {"path": str(download_weights(spec))}


def export(
    advance: Advance, *, source: str, sha256: str, form: str, imgsz: int | None, folder: str, stem: str
) -> Mapping[str, Any]:
    """Export a checkpoint with dynamic shapes into `folder`; the result is named after `stem`, as ultralytics does."""
    from healthd_yolo.openvino_runtime import openvino  # noqa: PLC0415
    from healthd_yolo.ultralytics_model import exported  # noqa: PLC0415

    del advance
    openvino()  # before anybody else imports it, with statistics on
    os.chdir(folder)
    copy = Path("model.pt")  # a plain relative name: ultralytics replaces `.pt` wherever it stands in the whole path
    shutil.copyfile(source, copy)
    if checksum(copy) != sha256:
        raise ModelError(f"{Path(source).name} was changed while it was read: say it again")
    name = Path(source).name
    try:
        made = exported(copy, TASKS, form=form, imgsz=imgsz, name=name)
    except (SettingsError, ModelError) as exc:
        raise type(exc)(str(exc).replace(copy.name, name) if copy.name not in name else str(exc)) from exc
    copy.unlink()
    _check_whole(made)
    if form == "onnx":
        made.rename(f"{stem}.onnx")
        return {}
    for file in list(made.iterdir()):
        if file.stem == copy.stem:
            file.rename(file.with_stem(stem))
    made.rename(f"{stem}_openvino_model")
    return {}


def quantize(
    advance: Advance, *, source: str, target: str, pictures: list[tuple[str, int | None]]
) -> Mapping[str, Any]:
    """Write a quantized copy of an OpenVINO directory."""
    from healthd_yolo.metadata import network_info, read_sidecar  # noqa: PLC0415
    from healthd_yolo.quantize import prepared_input  # noqa: PLC0415
    from healthd_yolo.quantize import quantize as quantized  # noqa: PLC0415

    info = network_info(read_sidecar(Path(source)), Path(source).name)
    inputs = [prepared_input(image, info.image_size, info.stride) for image in images(_samples(pictures))]
    quantized(Path(source), Path(target), inputs, advance)
    _check_whole(Path(target))
    return {}


def _check_whole(made: Path) -> None:
    """Read what was made: on a full disk OpenVINO writes half of it and is content."""
    try:
        read_file(made.absolute())
    except SettingsError as exc:
        raise ModelError(f"what was made cannot be read ({exc}): is the disk full?") from exc


def compare(
    advance: Advance,
    *,
    original: str,
    prepared: str,
    imgsz: int | None,
    threads: int | None,
    pictures: list[tuple[str, int | None]],
    about: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Run the original and what was prepared from it on the same pictures.

    `about`: of the pictures, `what` they are, and whether they are the user's `own`.
    """
    load = os.getloadavg()[0]
    batches = _batches(list(images(_samples(pictures))) if pictures else list(noise()))
    rounds = _ROUNDS + sum(map(len, batches))
    models = _models(Path(original), Path(prepared), imgsz, threads, ("f32", "auto"))
    speeds = _speeds(models, batches[0][:_TIMED], lambda done: advance(done, rounds))
    comparison = _Comparison(list(models)[1:])
    for number, batch in enumerate(batches):
        if number:
            precisions = [what.rpartition(" ")[2] for what in comparison.names]
            models = _models(Path(original), Path(prepared), imgsz, threads, precisions)
        comparison.add(list(models.values()), batch, lambda done: advance(_ROUNDS + done, rounds))
    parity = comparison.parity()
    wrong = [beyond(one, one.what.rpartition(" ")[2]) for one in parity]
    report = PrepareReport(
        pictures=about["what"],
        original=speeds[0],
        prepared=tuple(speeds[1:]),
        parity=tuple(parity),
        beyond=next((one for one in wrong if one is not None), None),
        notes=tuple(_notes(parity[0], load, own=about["own"])),
    )
    return report.model_dump()


def _batches(shown: list[Image]) -> list[list[Image]]:
    """Sort pictures by size, the commonest first, a few sizes in each batch.

    The engine keeps some compiled shapes and fits others into the full input, where the original would not.
    """
    sizes = [size for size, _ in Counter(image.shape for image in shown).most_common()]
    chosen = [sizes[first : first + _SIZES] for first in range(0, len(sizes), _SIZES)]
    return [[image for size in some for image in shown if image.shape == size] for some in chosen]


def _models(
    original: Path, prepared: Path, imgsz: int | None, threads: int | None, precisions: Sequence[str]
) -> dict[str, Model]:
    """Load the original, then what was prepared, in each precision that turns out to be one of its own."""
    options = [YoloModelOptions(engine="ultralytics", imgsz=imgsz, threads=threads)]
    options += [
        YoloModelOptions.model_validate({"engine": "openvino", "precision": one, "threads": threads})
        for one in precisions
    ]
    found: dict[str, Model] = {}
    for path, option in zip((original, *[prepared] * len(precisions)), options, strict=True):
        model = YoloFamily().load(ModelSpec(path.name, path, path.parent, option))
        model.warm_up()
        said = model.predict(np.zeros((720, 1280, 3), dtype=np.uint8), PARAMS).metadata
        engine = "torch" if said["engine"] == "ultralytics" else "openvino"
        found.setdefault(f"{engine}, {said['precision']}", model)
    return found


def _speeds(models: Mapping[str, Model], shown: list[Image], advance: Callable[[int], None]) -> list[Speed]:
    best = {what: [float("inf")] * len(shown) for what in models}
    for image in shown:
        for model in models.values():  # each compiles, or warms up, for the picture's shape
            model.predict(image, PARAMS)
    started = perf_counter()
    for turn in range(_ROUNDS):
        if turn >= 2 and perf_counter() - started > _SECONDS:
            break
        for what, model in models.items():
            for number, image in enumerate(shown):
                begun = perf_counter()
                model.predict(image, PARAMS)
                best[what][number] = min(best[what][number], perf_counter() - begun)
        advance(turn + 1)
    return [Speed(what=what, ms_per_picture=round(sum(times) / len(times) * 1e3, 2)) for what, times in best.items()]


class _Comparison:
    """What was found to differ so far, for each form of what was prepared."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._there = [Changes() for _ in names]
        self._back = [Changes() for _ in names]
        self._done = 0

    def add(self, models: Sequence[Model], shown: list[Image], advance: Callable[[int], None]) -> None:
        """Compare the first model with the others on some more pictures."""
        original, *others = models
        for image in shown:
            wanted = original.predict(image, PARAMS)
            for model, there, back in zip(others, self._there, self._back, strict=True):
                said = model.predict(image, PARAMS)
                scale = max(said.metadata["input_shape"]) / max(image.shape[:2])
                there.note(wanted.results, said.results, scale=scale)
                back.note(said.results, wanted.results, scale=scale)
            self._done += 1
            advance(self._done)

    def parity(self) -> list[Parity]:
        """Sum up."""
        return [
            there.told(what, new=back.lost)
            for what, there, back in zip(self.names, self._there, self._back, strict=True)
        ]


def _notes(parity: Parity, load: float, *, own: bool) -> Iterator[str]:
    if parity.asked < _FEW:
        advice = "other pictures" if own else "--calibration FOLDER, with pictures of your own cameras,"
        yield f"the original sees {parity.asked} objects in these pictures, which says little; {advice} would say more"
    if load > _BUSY * usable_cpus():
        yield f"other programs kept the machine busy (load {load:.0f}): the speeds are rough"


def _samples(pictures: list[tuple[str, int | None]]) -> list[Sample]:
    return [Sample(Path(path), frame) for path, frame in pictures]


TASKS_OF_CHILD: Mapping[str, Callable[..., Mapping[str, Any]]] = {
    "download": download,
    "export": export,
    "quantize": quantize,
    "compare": compare,
}


def main() -> None:
    """Do the one task that standard input names."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # nobody sends statistics from here
    tell = _own_output()
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True, name="parent").start()
    try:
        answer = TASKS_OF_CHILD[order["task"]](_advance_to(tell), **order["arguments"])
    except Exception as exc:
        said = told(exc)
        if said is None:
            raise
        _say(tell, **said)
    else:
        _say(tell, answer=answer)


def told(error: Exception) -> Mapping[str, Any] | None:
    """Return what the parent is told of an error; None: it is a bug.

    On a full disk that is what it hears, whatever the libraries made of it.
    """
    if shutil.disk_usage(os.environ.get("TMPDIR", ".")).free < _FULL_BYTES:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if isinstance(error, SettingsError):
        return {"error": str(error), "kind": "settings"}
    if isinstance(error, ModelError | MemoryError):
        return {"error": str(error) or repr(error), "kind": "model"}
    if isinstance(error, OSError):
        return {"error": error.strerror or repr(error), "kind": "system", "errno": error.errno}
    return None


def _own_output() -> TextIO:
    """Keep standard output for us; what others print goes to standard error."""
    tell = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return tell


def _end_with_input() -> None:
    """End this process when the parent closes its side, or dies."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _advance_to(tell: TextIO) -> Advance:
    return lambda done, total: _say(tell, progress=[done, total])


def _say(tell: TextIO, **facts: Any) -> None:
    tell.write(json.dumps(facts) + "\n")
    tell.flush()


if __name__ == "__main__":
    main()
