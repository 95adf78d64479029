"""The benchmarks give a table and plots whatever happens: a goal is missed, a peer is not there, a part breaks."""

import importlib
import inspect
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import held, kept, page, soak, soak_load
from benchmarks.figures import Figure, NotMeasuredError, Plot, not_measured, table

FIGURES = [
    Figure(
        "predictions",
        4.0,
        "times",
        (">=", 2.0),
        "peer: 20 per s",
        "720p",
        Plot("rates", "Rates", "", "per s", bars={"a": 1.0, "b": 2.0}),
    ),
    Figure("memory", 0.9, "", ("<=", 0.45)),
    Figure(
        "growth", -0.5, "%", ("<=", 2.0), plot=Plot("day", "A day", "minutes", "MB", lines={"it": [(0, 1.0), (1, 2.0)]})
    ),
    Figure("left", 0, "", ("==", 0)),
    not_measured("cached | snapshot", NotMeasuredError("without nginx,\nwrk"), (">=", 1.0)),
]


def test_the_table_says_what_is_reached_missed_and_not_measured_and_why() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(FIGURES[:4]).splitlines()[2:]]
    assert [row[3] for row in rows] == ["reached", "**missed**", "reached", "reached"]
    assert rows[0] == ["predictions", "4 times", ">= 2 times", "reached", "peer: 20 per s", "720p"]
    assert "| not measured: without nginx, wrk | >= 1 |  |" in table(FIGURES)
    assert page.summary(FIGURES) == "Of 5 goals 3 are reached, 1 missed, 1 not measured."


def test_the_page_has_table_plots_and_machine_and_the_plots_are_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "old.svg").write_text("of the last run", encoding="utf-8")
    written = page.write(FIGURES, {"processor": "a fast one"}, tmp_path, older={}).read_text(encoding="utf-8")
    assert table(FIGURES) in written
    assert "| processor | a fast one |" in written
    linked = re.findall(r"!\[.+\]\((benchmarks/.+\.svg)\)", written)
    assert sorted(linked) == ["benchmarks/day.svg", "benchmarks/goals.svg", "benchmarks/rates.svg"]
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {name.rpartition("/")[2] for name in linked}
    before = {name: (tmp_path / name).read_bytes() for name in linked}
    for svg in before.values():
        assert ET.fromstring(svg).tag.endswith("svg")
        assert str(tmp_path).encode() not in svg
    page.write(FIGURES, {}, tmp_path, older={})
    assert {name: (tmp_path / name).read_bytes() for name in linked} == before


def test_a_run_may_be_cut_into_several_and_the_page_names_the_parts_of_another_run(tmp_path: Path) -> None:
    file, first, last = tmp_path / "figures.json", "2026-01-01 17:59", "2026-01-02 08:00"
    kept.beside(file, {name: kept.Part(begun=first, figures=FIGURES[:2]) for name in ("engine", "soak")})
    together = kept.beside(file, {name: kept.Part(begun=last, figures=FIGURES[2:]) for name in ("engine", "held")})
    assert {name: table(part.figures) for name, part in together.items()} == {
        "engine": table(FIGURES[2:]),
        "soak": table(FIGURES[:2]),
        "held": table(FIGURES[2:]),
    }
    assert kept.beside(file, {}).keys() == together.keys(), "figures without a value are read again"
    assert together["soak"].figures[0].plot == FIGURES[0].plot
    assert kept.other_runs(together) == {first: ["soak"]}
    written = page.write(FIGURES, {}, tmp_path, older=kept.other_runs(together)).read_text(encoding="utf-8")
    assert "from one run and `soak` from one of 2026-01-01 17:59 UTC." in written


def test_the_soak_tells_what_grows_and_what_nobody_should_get() -> None:
    day = soak.Day(soak_load.Load())
    minutes = [step / 12 for step in range(30 * 12)]
    day.samples = [soak.Sample(minute, 500 + minute, 40, 100, 9) for minute in minutes]
    day.load.tile_ms = [(minute, 10.0 + minute) for minute in minutes]
    day.load.unexpected["snapshot 500"] += 2
    told = {figure.what: figure for figure in soak.figures(day, 30)}
    memory, threads, waits = (
        next(told[what] for what in told if word in what) for word in ("memory", "threads", "100")
    )
    assert (memory.reached, threads.reached) == (False, True)
    assert memory.value == pytest.approx(100 * 27 / 503, rel=0.02)
    assert waits.value == pytest.approx(100 * 26 / 14, rel=0.1)
    wrong = told["the same: answers that nobody should get"]
    assert (wrong.value, wrong.reached, wrong.detail) == (2, False, "2 x snapshot 500")
    day.samples = [sample for sample in day.samples if sample.minute <= 1]
    quick = soak.figures(day, 1)
    assert [figure.what for figure in quick] == list(told)
    assert [figure.goal for figure in quick[:4]] == [None] * 4


def test_frames_that_are_in_no_account_are_found() -> None:
    text = 'healthd_camera_frames_{}{{camera="{}"}} {}'
    kinds = {"read_total": 10, "predicted_total": 3, "dropped_total": 5, "in_hand": 1}
    lines = [text.format(kind, camera, number) for camera in "ab" for kind, number in kinds.items()]
    assert soak._unaccounted("\n".join(lines)) == 2


def test_how_much_of_a_goal_is_reached_is_more_where_the_figure_is_better() -> None:
    assert [figure.of_goal for figure in FIGURES] == [2.0, 0.5, float("inf"), None, None]


@pytest.mark.parametrize("name", benchmarks.PARTS)
def test_every_part_measures_quickly_or_not(name: str) -> None:
    measure = importlib.import_module(f"benchmarks.{name}").measure
    assert [(it.name, it.kind) for it in inspect.signature(measure).parameters.values()] == [
        ("quick", inspect.Parameter.KEYWORD_ONLY)
    ]


def test_a_part_that_breaks_gives_a_row_that_says_why_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*, quick: bool) -> list[Figure]:
        raise (NotMeasuredError("no yolo11n-pose.pt: set HEALTHD_TEST_ASSETS") if quick else KeyError("url"))

    monkeypatch.setattr(soak, "measure", breaks)
    monkeypatch.setattr(held, "measure", lambda *, quick: [])
    assert [figure.missing for figure in benchmarks.measured("soak", quick=True)] == [
        "no yolo11n-pose.pt: set HEALTHD_TEST_ASSETS"
    ]
    assert [figure.missing for figure in benchmarks.measured("soak", quick=False)] == ["KeyError('url')"]
    assert [bool(figure.missing) for figure in benchmarks.measured("held", quick=True)] == [True]


@pytest.mark.parametrize("limit", [0, 1, 4, 7, 12, 31])
def test_the_largest_number_that_is_held_is_found_wherever_it_lies(limit: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert held.most(holds, 4) == limit
    assert len(asked) <= 9


def test_only_parts_that_exist_can_be_asked_for() -> None:
    assert benchmarks.chosen("soak,engine") == ["engine", "soak"]
    with pytest.raises(Exception, match="there is no part `speed`"):
        benchmarks.chosen("speed")


def test_growth_is_that_of_the_line_through_all_samples() -> None:
    times = [number / 12 for number in range(324)]
    percent, uncertain = soak.growth(
        [(3 + time, 500 + 10 * time / 27 + 20 * (-1) ** n) for n, time in enumerate(times)]
    )
    assert percent == pytest.approx(2.0, abs=0.1)
    assert 0.5 < uncertain < 2
