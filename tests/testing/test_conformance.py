"""The conformance suite finds what breaks the contract and says so; it lets pass what keeps it."""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.cameras.source import CameraSource
from healthd.models.model import ModelFamily
from healthd.plugins import FAMILIES
from healthd.printed import Printed
from healthd.redact import SourceUrl
from healthd.testing.case import FamilyCase, SourceCase
from healthd.testing.family_rules import FAMILY_RULES
from healthd.testing.rules import judged, verdicts
from healthd.testing.source_rules import SOURCE_RULES
from healthd.testing.suites import FamilyConformance, SourceConformance
from healthd.testing.watch import printed, words_of
from tests.installing import IN_C, after, install
from tests.testing import bad_families as families
from tests.testing import bad_sources as sources

PICTURE = np.zeros((120, 160, 3), np.uint8)
PICTURE[20:60, 30:90] = 255
URL = "test://camera"


class TestGoodSource(SourceConformance):
    plugin = sources.Good
    url = URL
    fps = 80


class TestGoodRecording(SourceConformance):
    plugin = sources.GoodRecording
    url = URL


class TestGoodFamily(FamilyConformance):
    plugin = families.Good
    picture = PICTURE

    @pytest.fixture
    def case(self, model: str) -> FamilyCase:
        return FamilyCase(self.plugin, model=model, picture=self.picture)

    @pytest.fixture
    def model(self, tmp_path: Path) -> str:
        path = tmp_path / "a.good"
        path.write_bytes(b"good")
        return str(path)


def source_case(plugin: Any, **more: Any) -> SourceCase:
    return SourceCase(plugin, url=SourceUrl(URL), open_timeout_seconds=0.5, stall_timeout_seconds=0.5, **more)


@pytest.mark.parametrize(
    ("plugin", "rule", "fault"),
    [
        (sources.Undescribed, "settings-documented", "does not say what `step` means"),
        (sources.Lax, "settings-documented", "takes a key that it does not know"),
        (sources.Changeable, "settings-documented", "can be changed after it was made"),
        (sources.ConnectsAtOnce, "constructor-does-nothing", "the constructor opens a connection"),
        (sources.StartsAThread, "constructor-does-nothing", "1 threads more"),
        (sources.Dawdles, "constructor-does-nothing", "the constructor takes "),
        (sources.NoManager, "opens", "not a context manager"),
        (sources.NoCallable, "opens", "yielded str, not a callable"),
        (sources.SlowToOpen, "opens", "opening gave no answer within 1.5 s"),
        (sources.FailsToClose, "opens", "closing raised OSError: already closed"),
        (sources.Grey, "images", "uint8 (24, 32), not an image"),
        (sources.Floats, "images", "float32 (24, 32, 3), not an image"),
        (sources.Lists, "images", "returned list, not an image"),
        (sources.GoesBack, "images", "position_seconds goes back"),
        (sources.OneBuffer, "images-untouched", "changed after they were given out"),
        (sources.FillsAgain, "images-untouched", "changed after they were given out"),
        (sources.Spins, "rate", "would take a whole core"),
        (sources.EndsThoughLive, "ends-or-goes-on", "ended after 3 images (that was all), and is no recording"),
        (sources.EndsOnce, "ends-or-goes-on", "after its end it delivered another image"),
        (sources.StopsIterating, "ends-or-goes-on", "read() raised IndexError"),
        (sources.PilesUp, "slow-reader", "they had piled up"),
        (sources.RawError, "fails-the-right-way", "opening raised ConnectionRefusedError"),
        (sources.NoUrlMayPass, "fails-the-right-way", "without a url it raised CameraError"),
        (sources.OffIsForEver, "fails-the-right-way", "where no camera answers it raised SettingsError"),
        (sources.Wordless, "fails-the-right-way", "raised CameraError without a word"),
        (sources.MakesUp, "fails-the-right-way", "it delivers images from"),
        (sources.HangsWhenOff, "fails-the-right-way", "gave no answer within"),
        (sources.NeedsARead, "left-early", "closing raised IndexError"),
        (sources.OneForAll, "left-late", "CameraError: closed"),
        (sources.LeavesThreads, "reopens-without-leaks", "6 threads more"),
        (sources.LeavesSockets, "reopens-without-leaks", "6 file descriptors more"),
        (sources.LeavesProcesses, "reopens-without-leaks", "6 processes more than before (sleep)"),
        (sources.Talks, "prints-nothing", "it printed 'opening"),
        (sources.TalksWhenOff, "prints-nothing", "it printed 'failed: nobody answers'"),
        (sources.ModelNeedsCamera, "model-predicts", "model() raised AttributeError"),
        (sources.BadModel, "model-predicts", "not within its picture of 32x24"),
    ],
)
def test_a_source_that_breaks_a_rule_is_told_which_and_what_to_do(
    plugin: type[CameraSource], rule: str, fault: str
) -> None:
    (wanted,) = [one for one in SOURCE_RULES if one.name == rule]
    verdict = judged(wanted, source_case(plugin))
    assert verdict.outcome == "failed"
    assert fault in verdict.reason
    assert verdict.remedy


def test_a_source_of_another_rate_than_it_says_is_told_so() -> None:
    (rate,) = [one for one in SOURCE_RULES if one.name == "rate"]
    assert "images a second, not 40" in judged(rate, source_case(sources.Slow, fps=40)).reason


def test_a_constructor_is_not_blamed_for_a_moment_of_a_busy_machine() -> None:
    (constructor,) = [one for one in SOURCE_RULES if one.name == "constructor-does-nothing"]
    sources.DawdlesOnce.made.clear()
    assert judged(constructor, source_case(sources.DawdlesOnce)).outcome == "passed"


MEDDLING = f"import logging\nlogging.disable()\nprint('hello')\n{IN_C.format(number=12)}"
DID = ("it changed how signals are handled (SIGUSR2)", "it changed logging.disable", "it printed 1 line: hello")


def test_an_import_that_meddles_is_told_though_the_plugin_was_imported_here_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "meddling", after(MEDDLING))
    install(tmp_path, "prints_at_import", after("import logging; logging.warning('this is logged')\nprint('hello')"))
    (imports,) = [one for one in SOURCE_RULES if one.name == "imports-cleanly"]
    verdict = judged(imports, SourceCase("meddling"))
    assert verdict.outcome == "failed"
    assert all(note in verdict.reason for note in DID), verdict.reason
    assert "camera(), model() or load()" in verdict.remedy
    with printed():
        given = importlib.import_module("prints_at_import").Source
    assert judged(imports, SourceCase(given)).reason == "while it is imported, it printed 1 line: hello"
    assert judged(imports, SourceCase(sources.Good)).outcome == "passed"


def test_a_family_whose_import_meddles_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = f"{MEDDLING}\nfrom healthd.testing.fakes import FakeFamily"
    install(tmp_path, "lamps", code, group=FAMILIES, lamps="lamps:FakeFamily")
    (imports,) = [one for one in FAMILY_RULES if one.name == "imports-cleanly"]
    verdict = judged(imports, FamilyCase("lamps", model="a.fake"))
    assert verdict.outcome == "failed"
    assert all(note in verdict.reason for note in DID), verdict.reason


def test_a_source_that_is_another_in_another_process_is_told_so() -> None:
    (elsewhere,) = [one for one in SOURCE_RULES if one.name == "made-again-elsewhere"]
    verdict = judged(elsewhere, source_case(sources.KnowsTooMuch))
    assert "in another process its model_id is model-0, here model-2" in verdict.reason


def test_a_process_that_is_left_behind_is_not_waited_for() -> None:
    (elsewhere,) = [one for one in SOURCE_RULES if one.name == "made-again-elsewhere"]
    began = time.monotonic()
    assert judged(elsewhere, source_case(sources.LeavesProcesses)).outcome == "passed"
    assert time.monotonic() - began < 30, "it waited for the end of that process"


def test_what_ffmpeg_says_of_a_stream_is_not_what_the_plugin_prints() -> None:
    seen = Printed()
    seen.text = (
        "[tcp @ 0x7ff45] Connection refused\n[h264 @ 0x1] error while decoding\n    Last message repeated 2 times\n"
    )
    assert words_of(seen) == ""
    seen.text += "[camera] opening\n"
    assert words_of(seen) == "[camera] opening"


def test_what_needs_an_open_camera_is_skipped_where_it_cannot_be_opened() -> None:
    told = {one.rule: one.outcome for one in verdicts(SOURCE_RULES, source_case(sources.NoCallable))}
    assert told["settings-documented"] == "passed"
    assert told["opens"] == "failed"
    assert {told[rule.name] for rule in SOURCE_RULES if rule.opens} == {"failed", "skipped"}


@pytest.mark.parametrize(
    ("plugin", "rule", "fault"),
    [
        (families.UnhashableOptions, "options-documented", "cannot be hashed"),
        (families.StartsAThread, "constructor-does-nothing", "1 threads more"),
        (families.Dawdles, "constructor-does-nothing", "the constructor takes "),
        (families.RaisesOnNames, "serves-by-name", "raised IndexError"),
        (families.ServesNothing, "serves-by-name", "says no"),
        (families.LoadsNoModel, "loads", "load() returned object, not a Model"),
        (families.of(families.NoTask), "loads", "its `task` is ''"),
        (families.of(families.NumpyLabels), "loads", "its `labels` cannot be written as JSON"),
        (families.LoadsAnything, "refuses-what-is-no-model", "it loaded gone.good, which is no model"),
        (families.RawLoadError, "refuses-what-is-no-model", "load() raised FileNotFoundError"),
        (
            families.of(families.OneSize),
            "pictures-of-any-size",
            "predict() raised ValueError on a picture of 1920x1080",
        ),
        (families.of(families.WritesToImages), "pictures-of-any-size", "predict() raised ValueError"),
        (families.of(families.Dicts), "pictures-of-any-size", "it returned dict, not a Prediction"),
        (families.of(families.NumpyMetadata), "pictures-of-any-size", "its `metadata` cannot be written as JSON"),
        (families.of(families.NumpyBoxes), "pictures-of-any-size", "a detection cannot be written as JSON"),
        (families.of(families.WrongNames), "pictures-of-any-size", "class 0 is called 'lamp'"),
        (families.of(families.Unsorted), "pictures-of-any-size", "not sorted by confidence"),
        (families.of(families.ChokesOnTiny), "tiny-pictures", "predict() raised ZeroDivisionError on a picture of 1x1"),
        (families.of(families.BrokenByTiny), "tiny-pictures", "ModelError: too small"),
        (families.of(families.Unasked), "obeys-parameters", "asked for confidence 0.6 it gave 0.300"),
        (families.of(families.NetworkPixels), "boxes-in-pixels", "found again with an overlap of"),
        (families.of(families.NotThreadSafe), "threads", "called on 2 threads at a time"),
        (families.of(families.OneThreadOnly), "threads", "RuntimeError"),
        (families.of(families.ShuffledBatches), "batches", "image 0 of a batch"),
        (families.of(families.ShortBatches), "batches", "predict_batch answers 3 times for 4 images"),
        (families.of(families.KeepsMemory), "gives-back", "MB behind after close()"),
        (families.of(families.KeepsThreads), "gives-back", "3 threads more"),
        (families.of(families.Talks), "prints-nothing", "640x480 1 light"),
    ],
)
def test_a_family_that_breaks_a_rule_is_told_which_and_what_to_do(
    plugin: type[ModelFamily], rule: str, fault: str, tmp_path: Path
) -> None:
    model = tmp_path / "a.good"
    model.write_bytes(b"good")
    (wanted,) = [one for one in FAMILY_RULES if one.name == rule]
    verdict = judged(wanted, FamilyCase(plugin, model=str(model), picture=PICTURE))
    assert verdict.outcome == "failed"
    assert fault in verdict.reason
    assert verdict.remedy


def test_every_rule_has_a_source_or_a_family_that_breaks_it() -> None:
    """A rule that cannot fail says nothing."""
    tried = {
        mark.args[1][number][1]
        for test in (
            test_a_source_that_breaks_a_rule_is_told_which_and_what_to_do,
            test_a_family_that_breaks_a_rule_is_told_which_and_what_to_do,
        )
        for mark in test.pytestmark
        for number in range(len(mark.args[1]))
    }
    assert {rule.name for rule in (*SOURCE_RULES, *FAMILY_RULES)} - tried == {"made-again-elsewhere", "imports-cleanly"}
