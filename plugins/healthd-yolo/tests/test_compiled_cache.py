"""What is kept on disk makes the next start fast, and is never a reason not to start."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from healthd.errors import SettingsError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model
from healthd_yolo import compiled_cache, openvino_file, openvino_network
from healthd_yolo.compiled_cache import CompiledCache, fingerprint

Load = Callable[..., Model]
DEMO = Path(openvino_file.__file__).parent / "demo" / "gym-pose.onnx"
KEY = {"file": "abc", "size": [384, 640]}


def files(folder: Path) -> list[Path]:
    return sorted((folder / "compiled").iterdir())


def test_what_was_put_is_found_by_the_next_process_and_by_nobody_else(tmp_path: Path) -> None:
    CompiledCache(tmp_path, max_bytes=1000).put(KEY, {"precision": "bf16"}, b"\n\x00blob\n")
    found = CompiledCache(tmp_path, max_bytes=1000).get(KEY)
    assert found is not None
    assert (found.facts, found.blob) == ({"precision": "bf16"}, b"\n\x00blob\n")
    assert CompiledCache(tmp_path, max_bytes=1000).get({**KEY, "size": [640, 640]}) is None
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("attribute", ["FORMAT", "__version__", "machine"])
def test_another_version_or_another_processor_finds_nothing(
    attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CompiledCache(tmp_path, max_bytes=1000)
    cache.put(KEY, {})
    monkeypatch.setattr(compiled_cache, attribute, (lambda: "other") if attribute == "machine" else "other")
    assert cache.get(KEY) is None


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_entry_is_as_good_as_absent(damage: str, tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, max_bytes=1000)
    cache.put(KEY, {}, b"blob" * 20)
    data = bytearray(files(tmp_path)[0].read_bytes())
    data[-5] ^= 1
    kept = {"cut": bytes(data[:50]), "bit": bytes(data), "empty": b""}[damage]
    files(tmp_path)[0].write_bytes(kept)
    assert cache.get(KEY) is None
    cache.put(KEY, {}, b"new")
    assert cache.get(KEY) == compiled_cache.Entry({}, b"new")


def test_it_stays_within_its_bound_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, max_bytes=3500)
    for turn in range(3):
        cache.put({"turn": turn}, {}, bytes(1000))
        os.utime(files(tmp_path)[0].parent / cache._path(tmp_path, {"turn": turn}).name, (turn, turn))
    assert cache.get({"turn": 0}) is not None, "and is young again"
    cache.put({"turn": 3}, {}, bytes(1000))
    assert [turn for turn in range(4) if cache.get({"turn": turn})] == [0, 2, 3]
    cache.put({"turn": 4}, {}, bytes(4000))
    assert cache.get({"turn": 4}) is None, "larger than the bound"


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, max_bytes=1000)
    cache.put(KEY, {})
    for name in ("old.unfinished", "new.unfinished", "note.txt"):
        (tmp_path / "compiled" / name).touch()
    os.utime(tmp_path / "compiled" / "old.unfinished", (0, 0))
    os.utime(tmp_path / "compiled" / "note.txt", (0, 0))
    cache.put(KEY, {})
    assert {"new.unfinished", "note.txt"} < {file.name for file in files(tmp_path)}
    assert not (tmp_path / "compiled" / "old.unfinished").exists()


def test_many_writers_and_readers_share_it(tmp_path: Path) -> None:
    """Every read finds a whole entry or none, whoever writes and evicts meanwhile."""
    bad: list[Any] = []
    until = time.monotonic() + 1.0

    def work(number: int) -> None:
        cache, turn = CompiledCache(tmp_path, max_bytes=60_000), 0
        while time.monotonic() < until:
            turn += 1
            cache.put({"turn": turn % 5}, {"turn": turn % 5}, bytes([turn % 5]) * 20_000)
            found = cache.get({"turn": number})
            if found is not None and (found.facts["turn"] != number or found.blob != bytes([number]) * 20_000):
                bad.append(found)
        if not cache.keeps:
            bad.append("gave up")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad == []


@pytest.mark.parametrize("trouble", ["file", "shared"])
def test_a_folder_that_cannot_be_used_is_told_once_and_left_alone(trouble: str, tmp_path: Path) -> None:
    if trouble == "file":
        (tmp_path / "compiled").touch()
    else:
        (tmp_path / "compiled").mkdir()
        (tmp_path / "compiled").chmod(0o777)
    cache = CompiledCache(tmp_path, max_bytes=1000)
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            cache.put(KEY, {})
            assert cache.get(KEY) is None
    assert [event["event"] for event in logged] == ["compiled_cache_unusable"]
    assert not cache.keeps


def test_nothing_is_kept_where_nothing_may_be(tmp_path: Path) -> None:
    for cache in (CompiledCache(None, max_bytes=1000), CompiledCache(tmp_path, max_bytes=0)):
        cache.put(KEY, {})
        assert cache.get(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_changes_with_any_byte_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<net/>")
    (tmp_path / "a.bin").write_bytes(b"weights")
    prints = {fingerprint(tmp_path / "a.xml"), fingerprint(tmp_path)}
    (tmp_path / "a.bin").write_bytes(b"weightz")
    prints |= {fingerprint(tmp_path / "a.xml"), fingerprint(tmp_path)}
    (tmp_path / "metadata.yaml").write_text("task: pose")
    prints |= {fingerprint(tmp_path / "a.xml")}
    assert len(prints) >= 4


@pytest.mark.parametrize("beside", ["metadata.yaml", "a.onnx.data", "a.onnx_data", "a.data"])
def test_weights_and_metadata_beside_an_onnx_file_count_as_well(beside: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"graph")
    (tmp_path / "b.onnx").write_bytes(b"no part of it")
    prints = [fingerprint(tmp_path / "a.onnx")]
    for data in (b"one", b"two"):
        (tmp_path / beside).write_bytes(data)
        prints.append(fingerprint(tmp_path / "a.onnx"))
    assert len(set(prints)) == 3
    for other in ("a.onnx.bak", "a.onnx.healthd.json"):
        (tmp_path / other).write_bytes(b"nothing that is read")
    assert fingerprint(tmp_path / "a.onnx") == prints[-1]


def test_a_file_that_was_replaced_meanwhile_is_not_mixed_with_what_was_loaded(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copyfile(DEMO, path)
    model = load(path)
    assert model.predict(np.zeros((720, 1280, 3), np.uint8), InferenceParams()).results == ()
    path.write_bytes(path.read_bytes() + b"0")
    assert model.predict(np.zeros((360, 640, 3), np.uint8), InferenceParams()).results == ()
    with pytest.raises(SettingsError, match="has changed since it was loaded"):
        model.predict(np.zeros((1280, 720, 3), np.uint8), InferenceParams())


def test_neither_facts_of_another_form_nor_a_network_that_cannot_be_exported_hinder_a_load(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoExport:
        def __init__(self, compiled: Any) -> None:
            self.create_infer_request = compiled.create_infer_request

        def export_model(self) -> None:
            raise RuntimeError("not implemented")

    class Core:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def compile_model(self, *given: Any) -> NoExport:
            return NoExport(core.compile_model(*given))

    core = openvino_network.core()
    load(DEMO, cache=tmp_path)
    for file in files(tmp_path):
        entry = compiled_cache._read(file.read_bytes())
        assert entry is not None
        file.unlink() if entry.blob else file.write_bytes(compiled_cache._packed({"layout": "anchors"}, b""))
    monkeypatch.setattr(openvino_network, "core", Core)
    assert load(DEMO, cache=tmp_path).predict(np.zeros((720, 1280, 3), np.uint8), InferenceParams()).results == ()


@pytest.mark.assets
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("yolov8n-pose.onnx", marks=pytest.mark.thorough),
        "yolo26n-pose.onnx",
        pytest.param("yolov8n-pose_int8_openvino_model", marks=pytest.mark.thorough),
    ],
)
def test_the_second_load_compiles_nothing_reads_nothing_and_says_the_same(
    name: str, weights: Path, load: Load, pictures: dict[str, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(weights / name, cache=tmp_path).predict(pictures["bus"], InferenceParams())

    def refuse(*_: Any) -> None:
        raise AssertionError("not from the cache")

    monkeypatch.setattr(openvino_file, "_read", refuse)
    second = load(weights / name, cache=tmp_path).predict(pictures["bus"], InferenceParams())
    assert (first.results, first.metadata) == (second.results, second.metadata)
    assert len(second.results) == 4


@pytest.mark.assets
def test_a_compiled_network_that_openvino_refuses_is_compiled_anew(
    weights: Path, load: Load, pictures: dict[str, Image], tmp_path: Path
) -> None:
    path = weights / "yolov8n-pose.onnx"
    expected = load(path, cache=tmp_path).predict(pictures["bus"], InferenceParams()).results
    for file in files(tmp_path):
        entry = compiled_cache._read(file.read_bytes())
        assert entry is not None
        if entry.blob:
            file.write_bytes(compiled_cache._packed(entry.facts, entry.blob[:100]))
    assert load(path, cache=tmp_path).predict(pictures["bus"], InferenceParams()).results == expected


def test_that_half_precision_pays_is_measured_once_and_that_it_does_not_again_at_the_next_load(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(openvino_network.hints("auto", "CPU", quantized=False)) == 1:
        pytest.skip("this processor has no half precision")
    pays = iter([False, True])
    monkeypatch.setattr(openvino_network, "faster", lambda *_: next(pays))
    for chosen in (False, True, True):
        model = load(DEMO, cache=tmp_path, precision="auto")
        assert (model._network.precision != "f32") is chosen  # type: ignore[attr-defined]
    assert next(pays, None) is None


@pytest.mark.assets
def test_a_file_that_is_no_model_is_refused_with_a_cache_as_without(load: Load, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    for _ in range(2):
        with pytest.raises(SettingsError, match="not a model that OpenVINO can read"):
            load(tmp_path / "text.onnx", cache=tmp_path / "cache")
