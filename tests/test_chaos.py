"""`make chaos` tells the truth: what exceeds a bound, fails or is skipped is said, and the page is written whole."""

import dataclasses
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos import host_tools, page
from benchmarks.chaos import stage as stages
from benchmarks.chaos.beside import Beside, Seen
from benchmarks.chaos.faults import GROUPS, Fault, Outcome, all_faults
from benchmarks.chaos.mistakes import mistakes
from benchmarks.chaos.stage import Stage, _is_of
from healthd.metrics import documented_names

FAULTS = all_faults()
OTHERS = {
    "polls": 100.0,
    "polls_failed": 0.0,
    "poll_p99_ms": 4.0,
    "poll_p99_before_ms": 3.0,
    "infers": 20.0,
    "infers_failed": 0.0,
    "frames": 50.0,
    "frames_skipped": 0.0,
    "gap_ms": 110.0,
    "gap_before_ms": 104.0,
    "stream_breaks": 0.0,
    "late_ms": 0.0,
}


def outcome(name: str, **values: object) -> Outcome:
    fitting = {"noticed": 0.5, "recovered": 1.5, "others": OTHERS, "log": "session_failed: no image", "metric": "m +1"}
    return Outcome(name, **{**fitting, **values})  # type: ignore[arg-type]


def test_the_page_is_written_between_its_marks_and_says_what_exceeded_and_what_was_skipped(tmp_path: Path) -> None:
    copy = tmp_path / "reliability.md"
    copy.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    outcomes = {name: outcome(name) for name in FAULTS}
    late, skipped, *_ = FAULTS
    outcomes[late].problems += ["recovered in 9.0 s, bound 4 s", "others: 3 polls failed"]
    outcomes[skipped] = Outcome(skipped, skipped="no network namespace")
    machine = {"processor": "a fast one", "cores": "2", "memory": "8 GiB", "system": "Linux"}
    for _ in range(2):
        page.write(outcomes, machine, copy)
    text = copy.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text.split(page.END)[0].split("\n")
    assert f"Of {len(FAULTS)} faults {len(FAULTS) - 2} stayed within all bounds, 1 did not, 1 could not be done" in text
    assert "**exceeded: recovered in 9.0 s, bound 4 s**" in text
    assert "**3 polls failed**" in text
    assert "skipped: no network namespace" in text
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert len(rows) == len(FAULTS)
    assert {len(re.findall(r" \|", row)) for row in rows} == {len(page.HEAD)}


@pytest.mark.parametrize(
    ("p99", "problems", "said"),
    [
        (6.0, [], "none; "),
        (7.0, [], "within bounds; "),
        (90.0, ["others: p99 of polls 90 ms"], "**p99 of polls 90 ms**; "),
    ],
)
def test_others_whose_wait_more_than_doubled_were_affected_within_the_bounds(
    p99: float, problems: list[str], said: str
) -> None:
    seen = outcome("server-killed", others={**OTHERS, "poll_p99_ms": p99}, problems=problems)
    assert page.row(FAULTS["server-killed"], seen)[3].startswith(said)


def test_every_group_of_the_issue_has_a_table(tmp_path: Path) -> None:
    assert {fault.group for fault in FAULTS.values()} == set(GROUPS)


def test_the_page_has_one_row_for_each_fault_and_none_that_exceeds_its_bounds() -> None:
    written = page.PAGE.read_text(encoding="utf-8").split(page.BEGIN)[1].split(page.END)[0]
    tables = {table.partition("\n")[0]: table for table in written.split("\n## ")[1:]}
    there = {title: re.findall(r"^\| \*\*(.+?)\*\*<br>", table, re.MULTILINE) for title, table in tables.items()}
    faults = FAULTS.values()
    assert there == {title: [one.title for one in faults if one.group == group] for group, title in GROUPS.items()}
    assert "exceeded" not in written, "a bug to mend, not a row to explain"
    assert re.search(rf"Of {len(FAULTS)} faults \d+ stayed within all bounds, 0 did not, ", written)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_every_fault_says_how_it_is_done_and_what_an_operator_sees(fault: Fault) -> None:
    assert fault.how.endswith(".")
    assert fault.metric is None or fault.metric.partition("{")[0] in documented_names()
    assert (fault.event is not None and fault.metric is not None) or fault.unseen, "say why nothing is to be seen"
    assert fault.limit_seconds <= 300


def test_a_row_says_why_the_log_or_the_metrics_tell_nothing() -> None:
    fault = dataclasses.replace(FAULTS["server-killed"], unseen="it is no failure")
    assert page.row(fault, outcome("server-killed", log=""))[-2:] == ("- (it is no failure)", "`m +1`")
    assert page.row(fault, outcome("server-killed", metric=""))[-1] == "- (it is no failure)"
    assert page.row(fault, outcome("server-killed", log="", metric=""))[-2:] == ("- (it is no failure)", "-")


@pytest.mark.parametrize(
    ("metric", "fits"),
    [
        ("healthd_http_requests_total", True),
        ("healthd_http_req", True),
        ('healthd_http_requests_total{status="413"}', True),
        ('healthd_http_requests_total{route="/api/v1/jobs",status="413"}', True),
        ('healthd_http_requests_total{status="431"}', False),
        ("healthd_infer_requests_total", False),
    ],
)
def test_a_sample_is_found_by_some_of_its_labels(metric: str, *, fits: bool) -> None:
    assert _is_of('healthd_http_requests_total{route="/api/v1/jobs",status="413"}', metric) is fits


def test_what_those_beside_saw_before_the_fault_is_told_from_what_they_saw_after_it() -> None:
    beside = Beside("http://127.0.0.1:1", "witness", model="counter")
    beside.seen = Seen(
        polls=[(at / 10, 0.001 if at < 50 else 0.02, 404 if at == 70 else 200) for at in range(100)],
        infers=[(7.0, 0.1, 0)],
        parts=[(at / 10, at if at < 80 else at + 1) for at in range(100) if not 60 < at < 65],
        late=[(2.0, 0.5), (6.0, 0.03)],
    )
    compared = beside.compared(0.0, 4.95, 9.9)
    assert (compared["polls"], compared["polls_failed"], compared["infers_failed"]) == (50, 1, 1)
    assert (compared["poll_p99_before_ms"], compared["poll_p99_ms"]) == (pytest.approx(1), pytest.approx(20))
    assert compared["frames_skipped"] == 5
    assert (compared["gap_before_ms"], compared["gap_ms"]) == (pytest.approx(100), pytest.approx(470))
    assert compared["late_ms"] == pytest.approx(30)


def test_a_moment_in_which_those_beside_stood_still_excuses_what_was_waited_in_it_and_nothing_else() -> None:
    beside = Beside("http://127.0.0.1:1", "witness", model="counter")
    beside.seen = Seen(
        polls=[(at / 10, 0.5 if at >= 60 else 0.001, 200) for at in range(100)],
        parts=[(at / 10, at) for at in range(100) if not 60 < at < 65],
        late=[(5.49, 0.5)],
    )
    elsewhere = beside.compared(0.0, 4.95, 9.9)
    assert (elsewhere["poll_p99_ms"], elsewhere["gap_ms"]) == (pytest.approx(500), pytest.approx(500))
    beside.seen.polls[60:] = [(6.0, 0.5, 200)]
    beside.seen.late = [(5.99, 0.49)]
    there = beside.compared(0.0, 4.95, 9.9)
    assert (there["poll_p99_ms"], there["gap_ms"]) == (pytest.approx(10, abs=2), pytest.approx(100))


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ({}, None),
        ({"polls": 0.0}, "0 polls are too few to tell, at least 40"),
        ({"polls": 39.0}, "39 polls are too few to tell, at least 40"),
        ({"polls_failed": 1.0}, "1 polls failed"),
        ({"frames_skipped": 2.0}, None),
        ({"frames_skipped": 3.0}, "3 of 50 frames skipped"),
        ({"gap_ms": 310.0}, "310 ms without a frame, bound 304 ms"),
        ({"gap_ms": 310.0, "late_ms": 500.0}, "310 ms without a frame, bound 304 ms"),
        ({"poll_p99_ms": 57.0, "late_ms": 500.0}, "p99 of polls 57 ms, bound 56 ms"),
    ],
)
def test_whoever_else_is_hurt_is_a_problem(seen: dict[str, float], problem: str | None) -> None:
    stage = Stage(FAULTS["server-killed"])
    stage.outcome = outcome("server-killed", others={**OTHERS, **seen}, noticed=9.0, recovered=None)
    stage._judge_times()
    stage._judge_others()
    times = ["noticed in 9.0 s, bound 3 s", "not recovered"]
    assert stage.outcome.problems == [*times, *([f"others: {problem}"] if problem else [])]


@pytest.mark.parametrize("forgiven_later", [0.0, 0.2])
def test_others_are_watched_for_a_while_however_soon_a_fault_is_over(
    forgiven_later: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "WATCHED_SECONDS", 0.3)
    looked: list[float] = []

    def compared(begun: float, broken: float, ended: float, *, forgiven: float) -> dict[str, float]:
        del begun
        looked.append(ended - max(broken, forgiven))
        return OTHERS

    quiet = {"event": None, "noticed_within": None, "recovered_within": None}
    with Stage(dataclasses.replace(FAULTS["huge-header"], **quiet)) as stage:  # type: ignore[arg-type]
        stage.daemon = ended_daemon("")  # type: ignore[assignment]
        stage._beside = SimpleNamespace(leave=lambda: None, compared=compared)  # type: ignore[assignment]
        stage._broken_at = time.monotonic()
        if forgiven_later:
            stage._forgiven_at = stage._broken_at + forgiven_later
        assert stage.close().problems == []
    (seconds,) = looked
    assert seconds >= 0.3


TRACEBACK = "Traceback (most recent call last):\n  ...\nKeyError: 3"
BUG = json.dumps({"level": "error", "event": "jobs_bug", "exception": TRACEBACK})
DIED = json.dumps({"level": "critical", "event": "camera_task_died", "reason": "it was a bug"})
BROKEN = json.dumps({"level": "warning", "event": "plugin_broken", "exception": TRACEBACK})
WARNED = json.dumps({"level": "warning", "event": "session_failed", "reason": "refused", "error": "CameraError"})


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([WARNED, "a line of a library", '"a string"'], []),
        ([BUG, WARNED, BUG], ["`jobs_bug`: KeyError: 3 (2 times)"]),
        ([DIED, BROKEN], ["`camera_task_died`: it was a bug", "`plugin_broken`: KeyError: 3"]),
        (["Traceback (most recent call last):", "KeyError: 3"], ["Traceback (most recent call last):"]),
        ([json.dumps({"level": "error", "event": "crash_loop"})], []),
    ],
)
def test_errors_and_tracebacks_of_a_log_are_mistakes_but_for_those_that_are_named(
    lines: list[str], found: list[str]
) -> None:
    assert mistakes("\n".join(lines), named={"crash_loop"}) == found


def ended_daemon(log: str) -> SimpleNamespace:
    return SimpleNamespace(returncode=0, stderr=log, until_read=lambda: None, events=list)


@pytest.mark.parametrize("named", ["event", "errors"])
def test_a_row_whose_log_holds_an_error_is_not_within_its_bounds_unless_the_fault_names_it(named: str) -> None:
    plain = dataclasses.replace(FAULTS["hangs"], event=None)
    bounds = {"noticed_within": None, "recovered_within": None}
    naming = {**bounds, "event": "jobs_bug"} if named == "event" else {**bounds, "errors": ("jobs_bug",)}
    for how, problems in ((bounds, ["log: `jobs_bug`: KeyError: 3"]), (naming, [])):
        with Stage(dataclasses.replace(plain, **how)) as stage:  # type: ignore[arg-type]
            stage.daemon = ended_daemon(BUG)  # type: ignore[assignment]
            stage.outcome.log = "jobs_bug: found by the row"
            assert stage.close().problems == problems


@pytest.mark.parametrize(
    ("unified", "files"),
    [
        (False, {"memory.failcnt": "7\n", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"}),
        (True, {"memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"}),
    ],
    ids=["version 1", "version 2"],
)
def test_how_close_a_limit_came_is_read_from_both_kinds_of_control_groups(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unified: bool
) -> None:
    monkeypatch.setattr(host_tools, "CGROUPS", tmp_path)
    if not unified:
        (tmp_path / "memory").mkdir()
    group = host_tools.Cgroup("memory")
    group.folder.mkdir()
    for name, text in {**files, "cpu.stat": "usage_usec 9\nnr_periods 60\nnr_throttled 55\n"}.items():
        (group.folder / name).write_text(text, encoding="ascii")
    assert (group.limit_hits(), group.killed(), group.throttled()) == (7, 1, (60, 55))


def test_a_run_may_be_cut_into_several(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    chaos.kept(file, [outcome("server-killed")])
    together = chaos.kept(file, [outcome("dns-hangs", noticed=2.0)])
    assert {name: one.noticed for name, one in together.items()} == {"server-killed": 0.5, "dns-hangs": 2.0}


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (("2026-01-02 03:04", "2026-01-02 03:04"), "Measured on 2026-01-02 03:04 UTC"),
        (
            ("2026-01-02 03:04", "2026-01-01 23:00"),
            "Measured from 2026-01-01 23:00 UTC (the oldest row: `dns-hangs`) to 2026-01-02 03:04 UTC",
        ),
        (("2026-01-02 03:04", ""), "Measured on 2026-01-02 03:04 UTC, 1 of the rows at times that were not kept"),
        (("", ""), "Measured at times that were not kept"),
    ],
)
def test_the_page_says_of_when_its_oldest_row_is(times: tuple[str, str], said: str) -> None:
    names = ("server-killed", "dns-hangs")
    assert page.when({name: outcome(name, measured=at) for name, at in zip(names, times, strict=True)}) == said


def test_an_outcome_keeps_when_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "_outcome", lambda fault, *, loud: outcome(fault.name))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", chaos.run(FAULTS["dns-hangs"], loud=False).measured)


def test_faults_are_chosen_by_name_or_by_group() -> None:
    assert [fault.name for fault in chaos.chosen("dns-hangs,server-killed")] == ["server-killed", "dns-hangs"]
    assert {fault.group for fault in chaos.chosen("files")} == {"files"}
    with pytest.raises(Exception, match="there is no fault `fire`"):
        chaos.chosen("fire")


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["recovered in 9.0 s, bound 4 s"], 1)])
def test_a_bound_that_is_exceeded_is_the_exit_code(
    problems: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "run", lambda fault, *, loud: outcome(fault.name, problems=problems))
    monkeypatch.setattr(chaos, "become_reaper", lambda: None)
    monkeypatch.setattr("sys.argv", ["chaos", "--only", "server-killed"])
    assert chaos.main() == code
