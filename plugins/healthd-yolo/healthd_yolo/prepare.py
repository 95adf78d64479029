"""From a `.pt` file to the form that runs best in the engine `openvino`, stage by stage, torch in processes of its own.

`auto` is an OpenVINO directory with dynamic shapes: in the engine it is the same network as the ONNX export, as fast
(within a hundredth) and with the same results, loads sooner, and needs no `onnx` to be made. Its weights stay f32, so
that its f32 says what the checkpoint says; compressed to f16 it would be smaller and no faster.
"""

import importlib.util
import json
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from healthd.errors import SettingsError
from healthd.models.manifest import (
    Manifest,
    Source,
    checksum,
    checksums,
    damages,
    digest,
    read_manifest,
    total_bytes,
)
from healthd.models.model import ModelSpec
from healthd.models.prepare import PreparedModel, PrepareProgress, PrepareReport, PrepareRequest
from healthd.models.workshop import Workshop
from healthd_yolo.children import in_child
from healthd_yolo.engines import check_program, is_model_name
from healthd_yolo.sample_pictures import Sample, divided, evenly, own_samples, samples, told

MOST_CALIBRATION = 300
MOST_COMPARED = 24
INSTALL = 'pip install "healthd-yolo[ultralytics]"'
_TOOLS = ("healthd-yolo", "ultralytics", "torch", "openvino")


class Preparation:
    """One call of `healthd models prepare`. Lives as long as the call."""

    def __init__(self, spec: ModelSpec, request: PrepareRequest, progress: PrepareProgress) -> None:
        """Check what can be checked before anything is done.

        Raises:
            SettingsError: not with this file, these options or what is installed; with what to do.
        """
        self._spec = spec
        self._request = request
        self._progress = progress
        self._form = "openvino" if request.format == "auto" else request.format
        self._check()
        self._stem = Path(spec.model_id).name.removesuffix(".pt")
        self._target = spec.directory / self._name()
        found = samples(request.calibration) if request.calibration is not None else own_samples()
        self._compared = evenly(found, MOST_COMPARED)
        self._calibrating: list[Sample] = []
        if request.int8:
            self._calibrating, self._compared = divided(found, calibrating=MOST_CALIBRATION, comparing=MOST_COMPARED)

    def run(self) -> PreparedModel:
        """Do what was not done yet.

        Raises:
            SettingsError: something else lies where the result belongs.
            ModelError: a stage failed.
            OSError: the disk is full, or the folder cannot be written.
        """
        with Workshop(self._target) as work:
            source = self._source(work)
            origin = Source(name=source.name, sha256=checksum(source), size_bytes=source.stat().st_size)
            options = self._options()
            known = self._known(origin, options)
            if known is not None:
                work.clear()
                return self._outcome(origin, known.report, in_place=True, already=True)
            result = self._exported(work, source, origin)
            report = self._compare(work, source, origin, result)
            in_place = report.beyond is None or self._request.force
            if in_place:
                manifest = Manifest(
                    source=origin,
                    options=options,
                    tools=self._tools(),
                    made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    files=self._renamed(checksums(result), result),
                    report=report,
                )
                work.publish(result, manifest)
            size = total_bytes(self._target if in_place else result)
            return self._outcome(origin, report, in_place=in_place, already=False, size_bytes=size)

    def _check(self) -> None:
        spec, request = self._spec, self._request
        if not spec.model_id.lower().endswith(".pt"):
            raise SettingsError(
                f"{spec.model_id} is prepared as it is: only a .pt file is made into something else"
                " (`healthd models prepare yolo11n-pose.pt`)"
            )
        if spec.path is not None and not spec.path.is_file():
            raise SettingsError(f"{spec.model_id} is no file")
        check_program(spec)
        missing = [name for name in ("ultralytics", "torch") if importlib.util.find_spec(name) is None]
        if missing:
            raise SettingsError(
                f"{' and '.join(missing)} is not installed, and only ultralytics reads a .pt file: {INSTALL}, here or"
                " on another machine; what it makes runs without it"
            )
        if self._form not in ("openvino", "onnx"):
            raise SettingsError(f"--format: there is no `{request.format}`, only auto, openvino and onnx")
        if self._form == "onnx" and importlib.util.find_spec("onnx") is None:
            raise SettingsError("--format onnx needs the package onnx: pip install onnx; --format openvino does not")
        if request.int8 and self._form == "onnx":
            raise SettingsError("--int8 is made for --format openvino only")
        if request.int8 and request.calibration is None:
            raise SettingsError(
                "--int8 needs --calibration FOLDER: some hundred pictures of your own cameras, or a clip of them"
            )
        if request.int8 and importlib.util.find_spec("nncf") is None:
            raise SettingsError('--int8 needs nncf: pip install "healthd-yolo[quantize]"')

    def _name(self) -> str:
        form = "_int8_openvino_model" if self._request.int8 else "_openvino_model"
        usual = self._stem + (".onnx" if self._form == "onnx" else form)
        name = self._request.output or usual
        suffix = ".onnx" if self._form == "onnx" else "_openvino_model"
        if not name.endswith(suffix) or not is_model_name(name):
            raise SettingsError(f"--output: a model of this form is called something{suffix}, not {name}")
        return name

    def _options(self) -> dict[str, Any]:
        """Return what makes two results the same."""
        calibration = digest({"pictures": told(self._calibrating)}) if self._calibrating else None
        return {
            "format": self._form,
            "int8": self._request.int8,
            "imgsz": self._request.imgsz,
            "calibration": calibration,
        }

    def _tools(self) -> dict[str, str]:
        return {name: _version(name) for name in (*_TOOLS, *(("nncf",) if self._request.int8 else ()))}

    def _known(self, origin: Source, options: dict[str, Any]) -> Manifest | None:
        """Return the manifest of what is there already; None: there is nothing, or it may be replaced.

        Raises:
            SettingsError: something else is there.
        """
        if not self._target.exists() or self._request.force:
            return None
        manifest = read_manifest(self._target)
        ways_out = "--force replaces it, --output NAME puts the new one elsewhere"
        if manifest is None:
            raise SettingsError(f"{self._target} is there and was not made by `healthd models prepare`: {ways_out}")
        if (manifest.source.sha256, manifest.options) != (origin.sha256, options):
            raise SettingsError(f"{self._target} is there, made from another file or with other options: {ways_out}")
        if wrong := damages(self._target, manifest):
            raise SettingsError(f"{self._target} is not what was prepared ({'; '.join(wrong)}): {ways_out}")
        return manifest

    def _source(self, work: Workshop) -> Path:
        if self._spec.path is not None:
            return self._spec.path
        self._progress.stage(f"downloading {self._spec.model_id}")
        arguments = {"name": self._spec.model_id, "directory": str(self._spec.directory.absolute())}
        return Path(self._child(work, "download", arguments)["path"])

    def _exported(self, work: Workshop, source: Path, origin: Source) -> Path:
        """Return the network, quantized if that was asked for."""
        self._progress.stage(f"exporting {source.name} to {self._form}")
        inputs: dict[str, Any] = {
            "sha256": origin.sha256,
            "form": self._form,
            "imgsz": self._request.imgsz,
            "stem": self._stem,
        }
        tools = self._tools()
        task = {**inputs, "source": str(source.absolute())}
        plain = work.stage(
            "export", {**inputs, "tools": tools}, lambda place: self._stage(work, "export", {**task, "folder": place})
        )
        (exported,) = plain.iterdir()
        if not self._request.int8:
            return exported
        self._progress.stage(f"quantizing with {len(self._calibrating)} pictures")
        pictures = {"network": checksums(exported), "pictures": told(self._calibrating), "tools": tools}
        target = f"{self._stem}_int8_openvino_model"
        order = {"source": str(exported.absolute()), "pictures": _named(self._calibrating)}
        work.stage(
            "quantize",
            pictures,
            lambda place: self._stage(work, "quantize", {**order, "target": place / target}),
        )
        return work.folder / "quantize" / target

    def _compare(self, work: Workshop, source: Path, origin: Source, result: Path) -> PrepareReport:
        self._progress.stage(f"comparing with {source.name}")
        given = self._request.calibration
        pictures = f"{len(self._compared)} pictures of {given}" if given else "the two pictures of ultralytics"
        if not self._compared:
            pictures = "black and noise, which says little of parity"
        task: dict[str, Any] = {
            "original": str(source.absolute()),
            "prepared": str(result.absolute()),
            "imgsz": self._request.imgsz,
            "threads": self._spec.threads,
            "pictures": _named(self._compared),
            "about": {"what": pictures, "own": given is not None},
        }
        inputs = {**task, "pictures": told(self._compared)}
        inputs |= {"origin": origin.sha256, "network": checksums(result), "tools": self._tools()}

        def make(place: Path) -> None:
            (place / "report.json").write_text(json.dumps(self._child(work, "compare", task)), encoding="utf-8")

        place = work.stage("compare", inputs, make)
        return PrepareReport.model_validate_json((place / "report.json").read_bytes())

    def _stage(self, work: Workshop, task: str, arguments: dict[str, Any]) -> None:
        paths = {name: str(value.absolute()) for name, value in arguments.items() if isinstance(value, Path)}
        self._child(work, task, {**arguments, **paths})

    def _child(self, work: Workshop, task: str, arguments: dict[str, Any]) -> Any:
        return in_child(task, arguments, folder=work.folder, lock=work.lock, progress=self._progress)

    def _renamed(self, files: dict[str, str], result: Path) -> dict[str, str]:
        return files if result.is_dir() else {self._target.name: files[result.name]}

    def _outcome(
        self, origin: Source, report: PrepareReport, *, in_place: bool, already: bool, size_bytes: int | None = None
    ) -> PreparedModel:
        return PreparedModel(
            path=self._target,
            in_place=in_place,
            already=already,
            size_bytes=total_bytes(self._target) if size_bytes is None else size_bytes,
            original=origin.name,
            original_bytes=origin.size_bytes,
            report=report,
            config=f"[cameras.NAME.options]\nmodel = {json.dumps(self._target.name, ensure_ascii=False)}",
        )


def _named(chosen: list[Sample]) -> list[tuple[str, int | None]]:
    return [(str(one.path.absolute()), one.frame) for one in chosen]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
