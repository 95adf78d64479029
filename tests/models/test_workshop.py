"""What was prepared stage by stage survives the process, is checked, and appears at once."""

import errno
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from healthd.errors import ModelError, SettingsError
from healthd.models import workshop
from healthd.models.manifest import Manifest, Source, checksums, damages, manifest_place, read_manifest
from healthd.models.prepare import PrepareReport, Speed
from healthd.models.workshop import Workshop

REPORT = PrepareReport(
    pictures="two", original=Speed(what="old", ms_per_picture=2.0), prepared=(), parity=(), notes=("rough",)
)


class Maker:
    """Fills a stage, and counts how often."""

    def __init__(self, *, dies: bool = False) -> None:
        self.made = 0
        self._dies = dies

    def __call__(self, place: Path) -> None:
        self.made += 1
        (place / "weights.bin").write_bytes(b"weights")
        if self._dies:
            raise KeyboardInterrupt


def manifest(result: Path, name: str | None = None) -> Manifest:
    files = checksums(result)
    return Manifest(
        source=Source(name="a.pt", sha256="0" * 64, size_bytes=3),
        options={},
        tools={},
        made_at="2026-01-01T00:00:00+00:00",
        files=files if name is None else {name: next(iter(files.values()))},
        report=REPORT,
    )


def test_a_stage_is_done_once_until_its_inputs_or_its_files_change(tmp_path: Path) -> None:
    make = Maker()
    for inputs, spoilt, times in [(1, False, 1), (1, False, 1), (1, True, 2), (2, False, 3), (2, False, 3)]:
        with Workshop(tmp_path / "a.onnx") as work:
            if spoilt:
                (work.folder / "export" / "weights.bin").write_bytes(b"weighty")
            place = work.stage("export", {"source": inputs}, make)
            assert (place / "weights.bin").read_bytes() == b"weights"
        assert make.made == times


def test_a_stage_that_was_cut_off_counts_for_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Workshop(tmp_path / "a.onnx") as work:
        work.stage("export", {}, Maker(dies=True))
    assert list(tmp_path.iterdir()) == []
    with Workshop(tmp_path / "a.onnx") as work:
        work.stage("export", {}, Maker())
        with pytest.raises(KeyboardInterrupt):
            work.stage("quantize", {}, Maker(dies=True))
        assert not (work.folder / "quantize").exists()
    again, first = Maker(), Maker()
    with Workshop(tmp_path / "a.onnx") as work:
        work.stage("export", {}, first)
        work.stage("quantize", {}, again)
    assert (first.made, again.made) == (0, 1)


@pytest.mark.parametrize("name", ["a_openvino_model", "a.onnx"])
def test_a_result_replaces_what_was_there_and_nothing_else_is_left(name: str, tmp_path: Path) -> None:
    target = tmp_path / "models" / name
    for turn in range(2):
        with Workshop(target) as work:
            made = work.stage("export", {"turn": turn}, Maker())
            result = made if "openvino" in name else made / "weights.bin"
            work.publish(result, manifest(result, name if target.suffix else None))
    beside = set() if target.is_dir() else {f"{name}.healthd.json"}
    assert {path.name for path in target.parent.iterdir()} == {name} | beside
    found = read_manifest(target)
    assert found is not None
    assert found.report == REPORT
    assert damages(target, found) == []


@pytest.mark.parametrize("name", ["a_openvino_model", "a.onnx"])
def test_a_disk_that_is_full_at_the_end_is_told_in_its_own_words_and_filled_no_further(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: Path, **_: object) -> NoReturn:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    def no_links(*_: object) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    target = tmp_path / "models" / name
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(shutil, "copyfile", full)
    with Workshop(target) as work:
        made = work.stage("export", {}, Maker())
        result = made if "openvino" in name else made / "weights.bin"
        with pytest.raises(OSError, match="No space left on device") as raised:
            work.publish(result, manifest(result, name))
        assert raised.value.errno == errno.ENOSPC
        assert sorted(path.name for path in work.folder.iterdir()) == ["export", "stages.json"]
    assert not target.exists()


def test_files_that_were_changed_added_or_lost_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "a_openvino_model"
    folder.mkdir()
    for name in ("a.xml", "a.bin"):
        (folder / name).write_text("as made")
    said = manifest(folder)
    (folder / "a.xml").write_text("changed")
    (folder / "a.bin").rename(folder / "b.bin")
    assert damages(folder, said) == ["a.bin is missing", "a.xml was changed", "b.bin was added"]


def test_a_manifest_that_cannot_be_read_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"weights")
    assert read_manifest(tmp_path / "a.onnx") is None
    manifest_place(tmp_path / "a.onnx").write_text('{"source": 3}')
    with pytest.raises(SettingsError, match=r"a\.onnx cannot be read .*--force"):
        read_manifest(tmp_path / "a.onnx")


def test_two_at_once_on_one_model_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "LOCK_PATIENCE_SECONDS", 0.2)
    with Workshop(tmp_path / "a.onnx"):
        with pytest.raises(ModelError, match=r"another .* is at work on a\.onnx"), Workshop(tmp_path / "a.onnx"):
            raise AssertionError("both are in")
        with Workshop(tmp_path / "b.onnx"):
            pass
    with Workshop(tmp_path / "a.onnx"):
        pass
    assert list(tmp_path.iterdir()) == []
