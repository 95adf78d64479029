"""`healthd top`: what it tells of a daemon is true, whatever happens to the daemon, and looks right everywhere."""

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from rich.console import Console

from healthd import top_client as wire
from healthd.app import create_app
from healthd.clock import Clock
from healthd.process import process_usage
from healthd.redact import Secret
from healthd.tls import Pair
from healthd.top_client import DaemonClient, NoAnswer, parse_address, parse_key
from healthd.top_report import Camera, Daemon, Monitor, Report, Viewer, look_once, watch
from healthd.top_view import Fitted, age, count, duration, plain_lines, size, view
from tests.conftest import ROOT
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, prediction
from tests.serving import answering, daemon, free_port, has_ipv6, make_services, response, serving, under

KEY = "a-key-for-looking-only-4711"
KEYS = [("kiosk", KEY, "read")]
START = datetime(2026, 1, 31, 18, 0, tzinfo=UTC)


@asynccontextmanager
async def asking(url: str, key: str | None = None, *, seconds: float = 5.0) -> AsyncIterator[DaemonClient]:
    async with DaemonClient(parse_address(url), parse_key(key), answer_seconds=seconds) as client:
        yield client


async def problem_at(url: str, key: str | None = None, *, seconds: float = 5.0) -> str:
    """Return why there is no answer."""
    async with asking(url, key, seconds=seconds) as client:
        with pytest.raises(NoAnswer) as caught:
            await client.ask()
    return str(caught.value)


def cameras() -> list[Any]:
    return [
        make_runner(FakeSource("hall", predict=prediction)),
        make_runner(None, failure="no plugin `fake` is installed"),
        make_runner(FakeSource("yard")),
    ]


# -- against a real server ---------------------------------------------------------------------------------------------


async def test_it_tells_what_the_daemon_tells_with_rates_between_two_answers() -> None:
    async with daemon(cameras()) as (served, services), asking(served.url) as client:
        hall, yard = services.supervisor.get("hall"), services.supervisor.get("yard")
        await eventually(lambda: hall.counts.predicted > 3 and yard.counts.read > 3)
        monitor = Monitor(client)
        assert await monitor.ask()
        first = monitor.report()
        assert first.daemon.cpu_percent is None
        assert first.cameras[2].dropped_per_second is None
        read = yard.counts.read
        await eventually(lambda: yard.counts.read > read + 3)
        assert await monitor.ask()
        report = monitor.report()
    told = report.daemon
    assert (told.version, told.status, told.waiting_for) == ("0.1.0", "ready", [])
    assert told.cameras_by_state["live"] == 2
    assert 0 <= told.cpu_percent < 6400
    assert told.threads >= 3  # this one and a reader and a predictor at least
    assert told.resident_memory_bytes > 2**20
    assert 0 < told.open_fds < 2000
    assert [camera.name for camera in report.cameras] == ["hall", "gym", "yard"]
    assert [camera.state for camera in report.cameras] == ["live", "failed", "live"]
    assert report.cameras[1].reason == "no plugin `fake` is installed"
    assert report.cameras[0].model.state == "ready"
    assert report.cameras[2].dropped_per_second_by_reason.keys() == {"no_model"}
    assert report.cameras[2].dropped_per_second == report.cameras[2].dropped_per_second_by_reason["no_model"] > 10
    assert report.cameras[2].dropped == sum(report.cameras[2].dropped_by_reason.values())
    assert report.cameras[2].dropped_by_reason["no_model"] >= read
    assert report.cameras[2].state_seconds < 10


async def test_open_viewers_are_told_with_what_they_get() -> None:
    async with daemon(cameras()) as (served, services), asking(served.url) as client:
        await eventually(lambda: services.supervisor.get("hall").has_frame)
        monitor = Monitor(client)
        async with (
            httpx.AsyncClient(trust_env=False) as viewer,
            viewer.stream("GET", f"{served.url}/api/v1/cameras/hall/stream") as stream,
        ):
            parts = stream.aiter_bytes()
            await anext(parts)
            await monitor.ask()
            sent = monitor.report().viewers[0].sent
            while services.viewers.get("v1").sent < sent + 3:
                await anext(parts)
            await monitor.ask()
            report = monitor.report()
    (seen,) = report.viewers
    assert (seen.id, seen.kind, seen.camera, seen.client) == ("v1", "mjpeg", "hall", "127.0.0.1")
    assert seen.sent_per_second > 1
    assert report.daemon.viewers == report.cameras[0].viewers == 1


async def test_a_key_opens_the_door_and_a_wrong_or_missing_one_is_told_without_being_shown() -> None:
    async with daemon(keys=KEYS) as (served, _):
        async with asking(served.url, f" {KEY}\n") as client:
            assert (await client.ask()).cameras == []
        assert await problem_at(served.url) == "the daemon wants an API key: set HEALTHD_API_KEY or give --api-key"
        assert await problem_at(served.url, KEY[::-1]) == "the daemon does not know this API key"


async def test_a_daemon_that_is_away_and_comes_back_is_watched_on() -> None:
    port = free_port()
    async with (
        asking(f"http://127.0.0.1:{port}") as client,
        aclosing(watch(Monitor(client), interval_seconds=0.01)) as on,
    ):
        refused = [report async for report in until(on, lambda report: report.problem != "no answer yet")][-1]
        assert refused.problem == "connection refused"
        async with daemon(cameras()[:1], port=port):
            seen = [report async for report in until(on, lambda report: report.problem is None)]
            assert seen[-1].daemon.status in {"starting", "ready"}
        gone = [report async for report in until(on, lambda report: report.problem is not None)][-1]
        assert (gone.daemon, gone.cameras, gone.viewers) == (None, [], [])
        assert gone.answer_age_seconds > 0
        async with daemon(cameras()[:1], port=port):
            back = [report async for report in until(on, lambda report: report.problem is None)][-1]
        assert back.daemon.cpu_percent is None, "it is another run: nothing to compare with"


async def until(reports: AsyncIterator[Report], condition: Any) -> AsyncIterator[Report]:
    """Pass reports on up to the first one that fulfils the condition."""
    async with asyncio.timeout(5):
        async for report in reports:
            yield report
            if condition(report):
                return


async def test_it_works_under_a_path_prefix() -> None:
    async with serving(under("/cams/healthd", create_app(make_services()))) as served:
        for slash in ("", "/", "/#top"):
            async with asking(f"{served.url}/cams/healthd{slash}") as client:
                assert (await client.ask()).state.version
        assert "404" in await problem_at(served.url)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
async def test_it_works_over_ipv6() -> None:
    async with daemon(host="::1") as (served, _), asking(f"[::1]:{served.port}") as client:
        assert (await client.ask()).state.version


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=healthd test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *kind, *names, "-out", str(certificate), "-keyout", str(key)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    return certificate, key


async def test_it_works_over_tls_and_names_a_certificate_that_nobody_vouches_for(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon(pair=Pair(*certificate)) as (served, _):
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        problem = await problem_at(served.url)
        assert problem.startswith("its certificate is not trusted (self-signed certificate)")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        async with asking(served.url) as client:
            assert (await client.ask()).state.version
        plain = await problem_at(served.url.replace("https", "http"))
        assert plain.startswith("the connection broke")
    async with daemon() as (served, _):
        assert (await problem_at(served.url.replace("http", "https"))).startswith("no TLS connection")


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "no answer within 0.2 s"),
        (b"", "the connection broke, or what answers there does not speak HTTP: Server disconnected"),
        (
            b"RTSP/1.0 400 Bad Request\r\n\r\n",
            "the connection broke, or what answers there does not speak HTTP: illegal",
        ),
        (response(b"<html>"), "what answers there is no healthd, or one of another version: JSON is malformed"),
        (response(b"{}"), "what answers there is no healthd, or one of another version: Object missing required"),
        (response(b"\xff"), "what answers there is no healthd, or one of another version"),
        (response(b"", status="404 Not Found"), "what answers there is no healthd (404)"),
        (response(b"", status="502 Bad Gateway"), "the answer is 502 Bad Gateway"),
        (
            response(b"", status="301 Moved", headers=b"Location: https://u:geheim9@nas.lan/?token=geheim9\r\n"),
            "it redirects (301): give as --url https://***@nas.lan/?token=***",
        ),
        (response(b"", status="500 \x1b[31mRed"), "the answer is 500  [31mRed"),
    ],
)
async def test_what_is_no_answer_is_told_in_words(answer: bytes | None, problem: str) -> None:
    async with answering(answer) as served:
        told = await problem_at(served.url, seconds=0.2 if answer is None else 5)
    assert told.startswith(problem)
    assert told.isprintable()


async def test_a_host_that_does_not_exist_is_told() -> None:
    assert (await problem_at("http://nobody.invalid")).startswith("the name of the host is not known")


async def test_what_could_steer_a_terminal_is_blanked() -> None:
    runner = make_runner(None, failure="it said \x1b[2J\x07and\u202ethen\nleft")
    async with daemon([runner]) as (served, _), asking(served.url) as client:
        (camera,) = (await client.ask()).cameras
    assert camera.reason == "it said  [2J and then left"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("nas.lan", "http://nas.lan"),
        ("nas.lan:8080/healthd/", "http://nas.lan:8080/healthd/"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("https://me:geheim@nas.lan/healthd", "https://***@nas.lan/healthd"),
    ],
)
def test_an_address_is_read_as_people_write_it_and_shown_without_a_password(given: str, shown: str) -> None:
    assert str(parse_address(given)) == shown


@pytest.mark.parametrize(
    "given", ["", " ", "::1", "ftp://nas.lan", "http://", "http://x:y", "x:65536", "a\nb", "http://h/?key=geheim"]
)
def test_what_is_no_address_is_refused_without_quoting_it(given: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|is not|a URL must)") as caught:
        parse_address(given)
    assert "geheim" not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused_without_quoting_it() -> None:
    assert parse_key(None) is parse_key("") is parse_key(" ") is None
    assert parse_key(f"{KEY}\n") == Secret(KEY)
    for key in ("schl\u00fcssel-geheim", "geheim\r\nX-Other: 1"):
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            parse_key(key)
        assert "geheim" not in str(caught.value)


# -- the report --------------------------------------------------------------------------------------------------------


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, lambda: START + timedelta(seconds=self.seconds))


class FakeClient:
    """Gives one answer after another; then never answers again."""

    address = "http://nas.lan:8080"

    def __init__(self, *answers: wire.Answer | NoAnswer) -> None:
        self._left = iter(answers)

    async def ask(self) -> wire.Answer:
        answer = next(self._left, None)
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, NoAnswer):
            raise answer
        return answer


def camera(name: str = "gym", **changes: Any) -> wire.Camera:
    values: dict[str, Any] = {
        "plugin": "fake",
        "state": "live",
        "since": START,
        "reason": None,
        "fps": 25.0,
        "predicted_fps": 10.0,
        "frame_age_ms": 41.3,
        "frames": wire.FrameCounts({"replaced": 15, "backlog": 0}),
        "reconnects": 2,
        "viewers": 1,
        "model": wire.CameraModel("yolo", "ready", None),
    }
    return wire.Camera(name, **{**values, **changes})


def viewer(number: int = 1, *, sent: int = 100, **changes: Any) -> wire.Viewer:
    return wire.Viewer(f"v{number}", "mjpeg", "gym", "10.0.0.5", START, sent, 3, 75, 12.0, **changes)


def answer(
    uptime: float = 60.0,
    *seen: wire.Camera,
    cpu: float = 30.0,
    viewers: tuple[wire.Viewer, ...] = (),
    started_at: datetime = START,
    process: bool = True,
    waiting_for: tuple[str, ...] = (),
) -> wire.Answer:
    state = wire.DaemonState(
        status="ready",
        version="0.1.0",
        started_at=started_at,
        uptime_seconds=uptime,
        cameras={"live": len(seen)},
        viewers=len(viewers),
        models_loaded=1,
        waiting_for=list(waiting_for),
        process=wire.Process(cpu, 250 * 2**20, 24, 30) if process else None,
    )
    return wire.Answer(started_at + timedelta(seconds=uptime), state, list(seen), list(viewers))


async def reported(*answers: wire.Answer | NoAnswer) -> Report:
    monitor = Monitor(FakeClient(*answers))
    for _ in answers:
        await monitor.ask()
    return monitor.report()


async def test_rates_are_taken_over_the_time_between_two_answers_by_the_clock_of_the_daemon() -> None:
    before = answer(60, camera(), cpu=30, viewers=(viewer(sent=100),))
    more = camera(frames=wire.FrameCounts({"replaced": 45, "backlog": 6}))
    report = await reported(before, answer(62, more, cpu=31, viewers=(viewer(sent=150), viewer(2))))
    assert report.daemon.cpu_percent == 50.0
    assert report.cameras[0].dropped_per_second_by_reason == {"replaced": 15.0, "backlog": 3.0}
    assert report.cameras[0].dropped_per_second == 18.0
    assert report.cameras[0].dropped == 51
    assert report.cameras[0].state_seconds == 62
    assert [seen.sent_per_second for seen in report.viewers] == [25.0, None]


@pytest.mark.parametrize("uptime", [5.0, 500.0])
async def test_another_run_of_the_daemon_is_not_compared_with_the_one_before(uptime: float) -> None:
    report = await reported(answer(60, camera()), answer(uptime, camera(), cpu=99, started_at=START + timedelta(1)))
    assert report.daemon.cpu_percent is None
    assert report.cameras[0].dropped_per_second is None


async def test_after_a_gap_the_rate_is_that_of_the_gap() -> None:
    report = await reported(answer(60, cpu=30), NoAnswer("gone"), answer(70, cpu=31))
    assert report.problem is None
    assert report.daemon.cpu_percent == 10.0


async def test_a_daemon_that_does_not_tell_what_it_takes_is_shown_without() -> None:
    report = await reported(answer(60, process=False), answer(61, process=False))
    assert report.daemon.cpu_percent is report.daemon.resident_memory_bytes is None
    assert "cpu -" in drawn(report, 80)


async def test_an_answer_that_is_late_does_not_stop_the_reports_and_its_age_is_told() -> None:
    time = FakeClock()
    monitor = Monitor(FakeClient(answer(60, camera())), clock=time.clock())
    async with aclosing(watch(monitor, interval_seconds=0.01)) as reports:
        assert (await anext(reports)).answer_age_seconds == 0
        time.seconds += 4
        report = await anext(reports)
        assert report.answer_age_seconds == 4
    assert "no answer for 4.0 s: what follows is that old" in drawn(report, 80)


async def test_before_the_first_answer_it_says_so() -> None:
    async with aclosing(watch(Monitor(FakeClient()), interval_seconds=0.01)) as reports:
        assert (await anext(reports)).problem == "no answer yet"


async def test_one_look_is_two_answers_and_ends_at_the_first_that_does_not_come() -> None:
    report = await look_once(Monitor(FakeClient(answer(60), answer(61))), interval_seconds=0.01)
    assert report.daemon.cpu_percent == 0.0
    assert (await look_once(Monitor(FakeClient(NoAnswer("gone"))), interval_seconds=60)).problem == "gone"
    assert (await look_once(Monitor(FakeClient(answer(), NoAnswer("gone"))), interval_seconds=0.01)).problem == "gone"


def test_the_clock_of_a_daemon_that_was_set_since_its_start_is_taken_from_its_answer() -> None:
    state = answer(60).state
    assert wire._now(state, START + timedelta(seconds=58)) == START + timedelta(seconds=60)
    assert wire._now(state, START + timedelta(days=90)) == START + timedelta(days=90)
    assert wire._now(state, None) == START + timedelta(seconds=60)


def test_every_key_of_the_json_is_documented() -> None:
    section = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Watching it")[2]
    for shape in (Report, Daemon, Camera, Viewer, wire.CameraModel):
        for field in msgspec.structs.fields(shape):
            assert f"`{field.name}`" in section, f"{shape.__name__}.{field.name} is not documented"


def test_what_a_process_takes_is_told_without_proc_too(tmp_path: Path) -> None:
    usage = process_usage(tmp_path)
    assert usage.cpu_seconds > 0
    assert usage.resident_memory_bytes is usage.threads is usage.open_fds is None
    pages = " ".join(str(number) for number in range(3, 53))
    (tmp_path / "stat").write_text(f"1 (a) b) S {pages}", encoding="ascii")
    assert process_usage(tmp_path).threads == 19


# -- how it looks ------------------------------------------------------------------------------------------------------

CROWD = (
    camera("gym"),
    camera("a-camera-with-a-very-long-name-at-the-end-of-the-garden", state="reconnecting", reason="refused"),
    camera("hall", state="failed", reason="no plugin `yolo-hose` is installed; did you mean `yolo-pose`?"),
    camera("yard", model=wire.CameraModel("yolo", "retrying", "out of memory"), frame_age_ms=None),
)


def drawn(report: Report, width: int, *, height: int | None = None, **options: Any) -> str:
    console = Console(width=width, height=height, record=True, file=io.StringIO(), highlight=False, **options)
    body = view(report, width=width)
    console.print(body if height is None else Fitted(body), end="")
    return console.export_text()


@pytest.fixture
async def crowd() -> Report:
    later = [msgspec.structs.replace(seen, frames=wire.FrameCounts({"replaced": 30, "lost": 1})) for seen in CROWD]
    viewers = (viewer(1), viewer(2))
    return await reported(answer(7380, *CROWD), answer(7381, *later, viewers=viewers, waiting_for=("gym: a frame",)))


@pytest.mark.parametrize("width", [60, 79, 80, 100, 110, 200])
async def test_at_any_width_nothing_is_cut_off_that_matters(width: int, crowd: Report) -> None:
    text = drawn(crowd, width)
    assert max(map(len, text.splitlines())) <= width
    flat = re.sub(r"\s+", " ", text)
    for said in ("0.1.0", "ready", "up 2 h 3 min", "http://nas.lan:8080", "cpu 0.0 %", "memory 250 MiB", "threads 24"):
        assert said in flat
    for said in ("viewers 2", "models 1", "waiting for gym: a frame", "refused", "did you mean `yolo-pose`?"):
        assert said in flat
    assert "reconnecting for 2 h 3 min: refused" in flat
    assert "model retrying: out of memory" in flat
    for row in ("gym", "hall", "yard"):
        assert re.search(rf"^{row} .* 25\.0 +10\.0 .* 16\.0 ", text, re.MULTILINE), text
    assert CROWD[1].name in flat
    assert "replaced 15.0, lost 1.0" in flat
    assert re.search(r"^v1 +gym +10\.0\.0\.5 ", text, re.MULTILINE)
    assert "\u2026" not in text


async def test_what_others_say_is_no_markup() -> None:
    seen = camera(state="[/red]", reason="[blink]:smile:")
    viewers = (msgspec.structs.replace(viewer(), client="[/x]", camera="[bold]"),)
    text = drawn(await reported(answer(60, seen, viewers=viewers)), 80)
    for said in ("[/red]", "[blink]:smile:", "[/x]", "[bold]"):
        assert said in text


async def test_a_camera_in_a_process_says_what_that_holds_and_how_often_it_ended() -> None:
    inside = wire.CameraProcess(17 * 2**20, {"crashed": 2, "stalled": 0})
    monitor = Monitor(
        FakeClient(answer(60.0, camera(isolation="process", process=inside), camera("file", isolation="thread")))
    )
    await monitor.ask()
    report = monitor.report()
    gym, file = report.cameras
    assert (gym.isolation, gym.process_memory_bytes, gym.process_ends) == ("process", 17 * 2**20, {"crashed": 2})
    assert (file.isolation, file.process_memory_bytes, file.process_ends) == ("thread", None, {})
    rows = {line.split()[0]: line for line in drawn(report, 120).splitlines() if line.strip()}
    assert "17 MiB" in rows["gym"]
    assert "none" in rows["file"]
    assert "MiB" not in rows["file"]


async def test_columns_of_second_rank_come_with_the_width(crowd: Report) -> None:
    assert "reconn" not in drawn(crowd, 79).replace("reconnecting", "")
    assert "reconn  model" in drawn(crowd, 80)
    assert "drop/s by reason" not in drawn(crowd, 109)
    assert "drop/s by reason" in drawn(crowd, 110)


async def test_what_does_not_fit_the_height_is_counted(crowd: Report) -> None:
    whole = drawn(crowd, 80).splitlines()
    cut = drawn(crowd, 80, height=8).splitlines()
    assert cut[:7] == whole[:7]
    assert cut[7] == f"... {len(whole) - 7} more lines: make the terminal taller"
    assert drawn(crowd, 80, height=len(whole)).splitlines() == whole


async def test_colours_only_where_they_are_wanted(crowd: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def codes(**options: Any) -> str:
        console = Console(file=io.StringIO(), width=80, **options)
        console.print(view(crowd, width=80))
        return console.file.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mlive" in codes(force_terminal=True, color_system="standard")
    assert "\x1b" not in codes(force_terminal=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in codes(force_terminal=True, color_system="standard")


async def test_a_problem_is_all_that_is_shown() -> None:
    time = FakeClock()
    monitor = Monitor(FakeClient(answer(60, camera()), NoAnswer("connection refused")), clock=time.clock())
    await monitor.ask()
    time.seconds += 65
    await monitor.ask()
    report = monitor.report()
    said = "healthd at http://nas.lan:8080\nconnection refused; its last answer came 1 min ago"
    assert drawn(report, 80).strip() == said
    (line,) = plain_lines(report)
    assert line.endswith(' daemon url=http://nas.lan:8080 problem="connection refused" answer_age_seconds=65.0')


async def test_plain_lines_are_complete_in_themselves(crowd: Report) -> None:
    lines = list(plain_lines(crowd))
    assert [line.split()[1] for line in lines] == ["daemon", *["camera"] * 4, *["viewer"] * 2]
    assert all(
        datetime.fromisoformat(line.split()[0]) == crowd.at.replace(microsecond=crowd.at.microsecond // 1000 * 1000)
        for line in lines
    )
    assert ' name=hall state=failed reason="no plugin `yolo-hose` is installed; did you mean `yolo-pose`?" ' in lines[3]
    assert " dropped_per_second=16.0 dropped_replaced_per_second=15.0 dropped_lost_per_second=1.0 " in lines[1]
    assert all("\n" not in line and "None" not in line for line in lines)


def test_numbers_are_short() -> None:
    assert [count(number) for number in (None, 0, 9999, 12_345, 12_345_678)] == ["-", "0", "9999", "12.3k", "12.3M"]
    assert [size(number) for number in (None, 250 * 2**20, 3 * 2**29)] == ["-", "250 MiB", "1.50 GiB"]
    assert [age(number) for number in (None, 41.3, 1500, 90_000)] == ["-", "41 ms", "1.5 s", "1 min"]
    assert [duration(s) for s in (0, 59.4, 3599, 7380, 200_000)] == ["0.0 s", "59 s", "59 min", "2 h 3 min", "2 d 7 h"]


# -- the process -------------------------------------------------------------------------------------------------------


class Top:
    """One run of `healthd top`, on a terminal of its own or without one."""

    def __init__(self, *arguments: str, columns: int = 0, **variables: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEALTHD_")}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "SSL_CERT_FILE"):
            environment.pop(name, None)
        environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **variables}
        self.said = b""
        self._terminal, end = pty.openpty() if columns else os.pipe()
        if columns:
            self.resize(columns)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "healthd", "top", *arguments],
            env=environment,
            stdin=end if columns else subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if columns else None,  # noqa: PLW1509
        )
        os.close(end)

    async def until(self, text: bytes) -> None:
        """Read until it has said this."""
        async with asyncio.timeout(10):
            while text not in self.said:
                assert await self._read(), f"it ended: {self.said!r}"

    async def ended(self) -> int:
        """Read to the end, and return the exit code."""
        async with asyncio.timeout(10):
            while await self._read():
                pass
            return await asyncio.to_thread(self._process.wait, 5)

    def resize(self, columns: int) -> None:
        """Make its terminal so wide; whoever runs on it gets SIGWINCH."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        """Press keys on its terminal."""
        os.write(self._terminal, keys)

    async def _read(self) -> bytes:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._terminal, ready.set)
        await ready.wait()
        loop.remove_reader(self._terminal)
        data = b""
        with suppress(OSError):  # EIO: how Linux says that nobody holds the other end of a terminal
            data = os.read(self._terminal, 65536)
        self.said += data
        return data

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@contextmanager
def started(*arguments: str, columns: int = 0, **variables: str) -> Iterator[Top]:
    run = Top(*arguments, columns=columns, **variables)
    try:
        yield run
    finally:
        run.close()


@pytest.mark.process
async def test_on_a_terminal_one_look_is_a_table_and_the_key_is_never_shown() -> None:
    async with daemon(cameras(), keys=KEYS) as (served, _):
        arguments = ("--url", served.url, "--once", "--interval", "0.1")
        with started(*arguments, columns=60, HEALTHD_API_KEY=KEY) as run:
            assert await run.ended() == 0
    assert b"\x1b[1;31mfailed" in run.said
    text = re.sub(rb"\x1b\[[0-9;]*m", b"", run.said).decode()
    assert re.search(r"^hall +live ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 60
    assert KEY not in text


@pytest.mark.process
async def test_one_look_for_scripts_is_one_json_object_and_the_exit_code() -> None:
    async with daemon(cameras(), keys=KEYS) as (served, _):
        arguments = ("--url", served.url, "--once", "--json", "--interval", "0.1")
        with started(*arguments, "--api-key", KEY) as good, started(*arguments, HEALTHD_API_KEY="wrong-key-x") as bad:
            assert await good.ended() == 0
            assert await bad.ended() == 1
    told, refused = json.loads(good.said), json.loads(bad.said)
    assert [seen["name"] for seen in told["cameras"]] == ["hall", "gym", "yard"]
    assert told["problem"] is None
    assert refused["problem"] == "the daemon does not know this API key"
    assert told.keys() == refused.keys()
    assert KEY.encode() not in good.said
    assert b"wrong-key-x" not in bad.said


@pytest.mark.process
async def test_without_a_terminal_it_writes_plain_lines_as_long_as_somebody_reads() -> None:
    async with daemon(cameras()) as (served, _):
        with started("--url", served.url, "--interval", "0.1", FORCE_COLOR="1") as run:
            await run.until(b"camera name=yard state=live")
            await run.until(b"cpu_percent=")
            run._process.send_signal(2)
            assert await run.ended() == 0
    assert b"\x1b" not in run.said


@pytest.mark.process
async def test_ctrl_c_ends_it_at_once_and_leaves_the_terminal_as_it_was() -> None:
    async with answering(None) as deaf, daemon(cameras()) as (served, _):
        for url, said in ((served.url, b"hall"), (deaf.url, b"no answer yet")):
            with started("--url", url, "--interval", "0.1", columns=80) as run:
                await run.until(said)
                assert b"\x1b[?1049h" in run.said
                run.press(b"\x03")
                assert await run.ended() == 0
                assert run.said.endswith(b"\x1b[?1049l\x1b[?25h")
                assert b"Traceback" not in run.said


@pytest.mark.process
async def test_a_terminal_that_changes_its_size_is_drawn_anew_at_once() -> None:
    async with daemon(cameras()) as (served, _):
        with started("--url", served.url, "--interval", "3600", columns=80) as run:
            await run.until(b"yard")
            assert b"by reason" not in run.said
            run.resize(120)
            await run.until(b"by reason")


@pytest.mark.process
def test_wrong_usage_is_told_with_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--url", "ftp://u:geheim@x"],
        ["--interval", "nan"],
        ["--interval", "0"],
        ["--api-key", "geh\u00e9im"],
    ):
        command = [sys.executable, "-m", "healthd", "top", *arguments]
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert run.returncode == 2, run.stderr
        assert "geh" not in run.stderr
        assert arguments[0] in run.stderr
