"""The benchmarks give a table and plots whatever happens: a goal is missed, a peer is not there, a part breaks."""

import asyncio
import importlib
import inspect
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import psutil
import pytest
import structlog

from benchmarks import __main__ as benchmarks
from benchmarks import held, kept, page, soak, soak_growth, soak_load
from benchmarks.figures import Figure, NotMeasuredError, Plot, not_measured, table
from benchmarks.soak_probe import PER_SECOND, Probe
from tests.eventually import until_true

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


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """The benchmarks tell less than the tests want to hear."""
    config = structlog.get_config()
    yield
    structlog.configure(**config)


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


def a_day(minutes: int = 30, *, memory: float = 0.0, wait: float = 0.0, more: int = 0) -> soak.Day:
    """Return a day on which nothing is wrong but what grows: so much per minute; `more` things at the end."""
    day = soak.Day(soak_load.Load())
    times = [step / 12 for step in range(minutes * 12)]
    for minute in times:
        late = more * (minute > minutes - 4)
        day.samples.append(soak.Sample(minute, 500 + memory * minute, 40 + late, 300 + late, 9 + late))
    day.waits = [(minute, 10.0 + wait * minute) for minute in times]
    seconds = minutes * 60
    day.load.shown.update(dict.fromkeys(range(soak_load.CAMERAS), 8 * seconds))
    day.load.streams = soak_load.STREAMS * seconds // 11
    day.load.frames, day.load.frames_asked = 900, 1000.0
    day.load.inferences, day.load.jobs, day.load.log_ins = seconds // 2, seconds // 15, seconds // 15
    day.load.over.update(soak.OVER)
    return day


def missed(day: soak.Day, minutes: int = 30) -> list[str]:
    return [figure.what.removeprefix("the same: ") for figure in soak.figures(day, minutes) if figure.reached is False]


def test_a_day_that_stays_flat_reaches_all_goals_of_the_soak_and_a_short_one_has_fewer() -> None:
    assert missed(a_day()) == []
    assert missed(a_day(more=1)) == []
    told = soak.figures(a_day(), 30)
    assert all(figure.goal is not None for figure in told)
    quick = soak.figures(a_day(1), 1)
    assert [figure.what for figure in quick] == [figure.what for figure in told]
    assert [figure.goal for figure in quick[:5]] == [None] * 5


def test_the_soak_misses_a_goal_for_whatever_grows_or_stays_broken() -> None:
    assert [what.split(",")[0] for what in missed(a_day(memory=3))] == ["growth of memory"]
    assert "180.0 ± 0.0 MB per hour" in soak.figures(a_day(memory=3), 30)[0].detail
    assert missed(a_day(wait=0.3)) == []
    assert missed(a_day(wait=1)) == ["growth of what 1 of 100 snapshots waits, its error included"]
    assert missed(a_day(more=2)) == [f"more {what} at the end" for what in ("threads", "open descriptors", "processes")]
    day = a_day()
    day.lost = {"c1": "failed, too many failures"}
    day.load.unexpected["snapshot 500"] += 2
    day.unaccounted = 1
    assert len(missed(day)) == 3
    day = a_day()
    day.samples = [one for one in day.samples if one.minute < 25]
    assert missed(day) == ["longest time without a look at all of that"]
    assert [bool(figure.missing) for figure in soak.figures(day, 30)[:5]] == [True] * 4 + [False]


def test_a_camera_that_is_away_takes_its_descriptors_along_and_that_is_no_shrinking() -> None:
    day = a_day(more=2)
    day.samples = [
        replace(one, processes=9 - (number % 2), descriptors=one.descriptors - 16 * (number % 2))
        for number, one in enumerate(day.samples)
    ]
    assert missed(day) == ["more threads at the end", "more open descriptors at the end"]


def test_what_is_counted_has_a_slope_and_its_error_too() -> None:
    day = a_day()
    day.samples = [replace(one, descriptors=300 + int(one.minute / 2)) for one in day.samples]
    told = {figure.what: figure.detail for figure in soak.figures(day, 30)}
    assert told["the same: more open descriptors at the end"].startswith("medians of 2 min each; +30.")
    assert told["the same: more threads at the end"] == "medians of 2 min each; +0.0 ± 0.0 per hour"


def test_a_freeze_with_each_fault_of_a_kind_is_no_growth_but_freezes_of_the_second_half_alone_are() -> None:
    day = a_day()
    freezing = range(8, 30, soak_load.FAULTS)
    day.waits += [(minute + number / 1000, 900.0) for minute in freezing for number in range(50)]
    assert missed(day) == []
    day.waits = [(minute, wait) for minute, wait in day.waits if wait < 900 or minute > 20]
    assert missed(day) == [
        "growth of what 1 of 100 snapshots waits, its error included",
        "what 1 of 100 snapshots waits, freezes included: second half beside the first",
    ]
    later = next(figure for figure in soak.figures(day, 30) if figure.what.endswith("beside the first"))
    assert (later.peer, later.detail) == ("first half: 10 ms, second half: 900 ms", "longest of all: 0.9 s")


def test_of_a_freeze_every_snapshot_is_late_that_was_due_in_it(tmp_path: Path) -> None:
    class Freezing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answered = 0

        def do_GET(self) -> None:
            Freezing.answered += 1
            if Freezing.answered == 20:
                time.sleep(1)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Say nothing."""

    begun = time.monotonic()
    with ThreadingHTTPServer(("127.0.0.1", 0), Freezing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Probe(f"http://127.0.0.1:{server.server_port}", cameras=8, key="", folder=tmp_path) as probe:
            until_true(lambda: Freezing.answered > 60, seconds=20)
        server.shutdown()
    waits = probe.waits(begun)
    assert len(waits) > 50
    assert max(wait for _, wait in waits) > 950
    assert sum(wait > 450 for _, wait in waits) >= PER_SECOND * 0.5


def test_the_soak_wants_of_everything_what_the_load_has_asked_for() -> None:
    day = a_day()
    day.load.shown[3] //= 3
    assert missed(day) == ["snapshots, of the camera that was seen least, of those that are asked for"]
    nothing = soak.Day(soak_load.Load(), a_day().samples)
    nothing.waits = a_day().waits
    assert len(missed(nothing)) == len(soak.LEAST_PERCENT) + 1


async def test_a_look_that_fails_ends_the_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    class Load:
        load, minute = soak_load.Load(), 0.0

        async def run(self, minutes: float) -> None:
            await asyncio.sleep(minutes * 60)

    def denied(*_: object) -> soak.Sample:
        raise psutil.AccessDenied

    monkeypatch.setattr(soak, "_sample", denied)
    daemon = SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(soak._day(daemon, Load(), 1), 20)  # type: ignore[arg-type]


async def test_a_load_that_waits_for_nothing_ends_the_soak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def idle(*_: object) -> None:
        await asyncio.sleep(60)

    async def hangs(*_: object) -> None:
        raise TimeoutError

    for what in ("_trouble", "_faults", "_office", "_stream", "_tile"):
        monkeypatch.setattr(soak_load.Driver, what, idle)
    monkeypatch.setattr(soak_load.Driver, "_infer", hangs)
    driver = soak_load.Driver(SimpleNamespace(), SimpleNamespace(), tmp_path / "log", b"", "", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(driver.run(1), 20)
    monkeypatch.setattr(soak_load.Driver, "_infer", idle)
    await asyncio.wait_for(driver.run(0.001), 20)


async def test_a_camera_that_does_not_come_back_is_told_of_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/infer":
            return httpx.Response(503)
        name, _, what = request.url.path.removeprefix("/api/v1/cameras/").partition("/")
        if what:
            return httpx.Response(200, json={"captured_at": f"{'2020' if name == 'c2' else '2999'}-01-01T00:00:00Z"})
        return httpx.Response(200, json={"state": "failed" if name == "c1" else "live", "reason": "gone"})

    driver = soak_load.Driver(SimpleNamespace(), SimpleNamespace(), tmp_path / "log", b"", "", tmp_path)  # type: ignore[arg-type]
    client = lambda: httpx.AsyncClient(base_url="http://daemon", transport=httpx.MockTransport(answer))  # noqa: E731
    monkeypatch.setattr(driver, "_client", client)
    monkeypatch.setattr(soak_load, "RECOVERY_SECONDS", 0.1)
    assert await driver.recovered() == {"c1": "failed, gone", "c2": "no fresh prediction (200)", "infer": "answer 503"}


@pytest.mark.parametrize(
    ("part", "figure", "code"),
    [
        ("soak", Figure("memory", 1.0, "%", ("<=", 2.0)), 0),
        ("soak", Figure("memory", 3.0, "%", ("<=", 2.0)), 1),
        ("soak", not_measured("memory", "no OpenVINO"), 1),
        ("soak", None, 1),
        ("held", Figure("held", 1.0, "", (">=", 2.0)), 0),
        ("held", not_measured("held", "no torch"), 0),
        ("held", None, 1),
    ],
)
def test_a_part_that_broke_or_a_goal_that_must_hold_is_the_exit_code(
    part: str, figure: Figure | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*, quick: bool) -> list[Figure]:
        del quick
        if figure is None:
            raise RuntimeError("exit code 1")
        return [figure]

    monkeypatch.setattr(importlib.import_module(f"benchmarks.{part}"), "measure", measure)
    monkeypatch.setattr(benchmarks, "machine", dict)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", part])
    assert benchmarks.main() == code


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


def test_growth_is_that_of_the_line_through_all_blocks() -> None:
    times = [number / 12 for number in range(360)]
    series = soak_growth.blocks([(time, 500 + 10 * time / 24 + 20 * (-1) ** n) for n, time in enumerate(times)], 3, 30)
    assert [minute for minute, _ in series] == [4 + 2 * block for block in range(13)]
    grown = soak_growth.growth(series)
    assert grown is not None
    assert grown.percent == pytest.approx(2.0, abs=0.1)
    assert grown.per_hour == pytest.approx(25.0, abs=0.5)
    assert soak_growth.growth(series[:4]) is None


def test_the_error_of_growth_holds_for_samples_that_are_like_those_before_them() -> None:
    """Where nothing grows, and what is in hand goes up and down in minutes."""
    chance, held = np.random.default_rng(1), 0
    for _ in range(200):
        noise = [chance.normal()]
        for _ in range(359):
            noise.append(0.95 * noise[-1] + np.sqrt(1 - 0.95**2) * chance.normal())
        samples = [(number / 12, 500 + 15 * one) for number, one in enumerate(noise)]
        grown = soak_growth.growth(soak_growth.blocks(samples, 3, 30))
        assert grown is not None
        held += abs(grown.percent) <= grown.percent_error
    assert held >= 0.88 * 200


def minutes_of_faults(chance: np.random.Generator, times: float) -> list[tuple[float, float]]:
    """Return 27 minutes of waits: some faults cost ten times others, and the last minute takes so many times the first.

    What is left over spreads as it did in a soak.
    """
    costs = [30.0, 60.0, 300.0, 45.0, 90.0, 200.0]
    spread = np.exp(0.45 * chance.normal(size=27))
    return [
        (minute + 0.5, costs[minute % 6] * times ** ((minute - 3) / 26) * spread[minute - 3]) for minute in range(3, 30)
    ]


def test_waits_are_held_against_minutes_with_the_same_fault() -> None:
    chance, held, doubled, seen = np.random.default_rng(2), 0, 0, 400
    for _ in range(seen):
        flat = soak_growth.multiplied(minutes_of_faults(chance, 1.0), 6)
        grown = soak_growth.multiplied(minutes_of_faults(chance, 2.5), 6)
        assert flat is not None
        assert grown is not None
        held += flat.at_least <= 1.0 <= flat.at_most
        doubled += grown.at_most > 2.0
    assert held >= 0.93 * seen, "the error is told too small"
    assert doubled >= 0.93 * seen, "growth is not found"
    assert soak_growth.multiplied(minutes_of_faults(chance, 1.0)[:17], 6) is None
