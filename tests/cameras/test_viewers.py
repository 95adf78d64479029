"""Who looks: admitted up to the limits, released once however it ends, counted without drift."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest
from structlog.testing import capture_logs

from healthd.cameras.viewers import EndReason, Kind, PageSession, TooManyViewers, Viewer, Viewers
from healthd.clock import Clock


class _Time:
    now = 100.0


def make(*, total: int = 10, per_camera: int = 10, max_seconds: float = 0.0, time: _Time | None = None) -> Viewers:
    clock = Clock(monotonic=lambda: time.now) if time else Clock()
    return Viewers(max_viewers=total, max_viewers_per_camera=per_camera, max_seconds=max_seconds, clock=clock)


def opened(viewers: Viewers, camera: str | None = "gym", kind: Kind = "mjpeg") -> contextlib.ExitStack:
    """Open a session that lasts until the stack is closed."""
    stack = contextlib.ExitStack()
    stack.enter_context(viewers.admitted(kind=kind, camera=camera, client="10.0.0.7"))
    return stack


def values(viewers: Viewers) -> dict[str, float]:
    """The metrics, as `name` or `name{value,value}`."""
    return {
        sample.name + (f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""): sample.value
        for sample in viewers.samples()
    }


def test_a_viewer_is_open_for_as_long_as_its_block_lasts() -> None:
    viewers = make()
    with viewers.admitted(kind="mjpeg", camera="gym", client="10.0.0.7") as viewer:
        assert list(viewers) == [viewer]
        assert (len(viewers), viewers.count("gym"), viewers.count("rack")) == (1, 1, 0)
        assert viewers.get(viewer.viewer_id) is viewer
    assert (len(viewers), viewers.count("gym")) == (0, 0)
    assert viewers.get(viewer.viewer_id) is None
    assert viewer.ended is EndReason.CLIENT


def test_ids_are_never_given_twice() -> None:
    viewers = make()
    seen = set()
    for _ in range(20):
        with viewers.admitted(kind="mjpeg", camera="gym", client="-") as viewer:
            seen.add(viewer.viewer_id)
    assert len(seen) == 20


def test_the_limit_of_all_viewers_counts_every_kind_and_camera() -> None:
    viewers = make(total=3)
    with opened(viewers, "gym"), opened(viewers, None, "events"), opened(viewers, "rack"):
        with pytest.raises(TooManyViewers, match=r"3 viewers are open.*streams\.max_viewers\)"):
            opened(viewers, "hall")
        assert len(viewers) == 3
    with opened(viewers, "hall"):
        assert len(viewers) == 1


def test_the_limit_of_one_camera_leaves_the_others_alone() -> None:
    viewers = make(per_camera=2)
    with opened(viewers, "gym"), opened(viewers, "gym", "events"):
        with pytest.raises(TooManyViewers, match=r"2 viewers of `gym`.*streams\.max_viewers_per_camera"):
            opened(viewers, "gym")
        with opened(viewers, "rack"), opened(viewers, None, "events"), opened(viewers, None, "events"):
            assert len(viewers) == 5


def test_one_client_does_not_take_the_places_of_all() -> None:
    """Neither with addresses of one network, nor with its sockets, which are counted apart."""
    viewers = Viewers(max_viewers=10, max_viewers_per_camera=10, max_viewers_per_client=2)
    with contextlib.ExitStack() as stack:
        for host in ("2001:db8::1", "2001:db8::2"):
            stack.enter_context(viewers.admitted(kind="events", camera=None, client=host))
        with pytest.raises(TooManyViewers, match=r"2 viewers of this address.*streams\.max_viewers_per_client"):
            stack.enter_context(viewers.admitted(kind="mjpeg", camera="gym", client="2001:db8::3"))
        stack.enter_context(viewers.admitted(kind="socket", camera=None, client="2001:db8::3"))
        stack.enter_context(opened(viewers))


def test_one_who_was_refused_is_counted_and_logged_and_takes_no_room() -> None:
    viewers = make(total=1)
    with opened(viewers), capture_logs() as logs, pytest.raises(TooManyViewers):
        opened(viewers)
    assert values(viewers)["healthd_viewers_refused_total"] == 1
    assert values(viewers)["healthd_viewers_admitted_total"] == 1
    (refused,) = logs
    assert (refused["event"], refused["camera"], refused["client"]) == ("viewer_refused", "gym", "10.0.0.7")
    assert "streams.max_viewers" in refused["reason"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()])
def test_a_session_that_breaks_is_released_all_the_same(error: BaseException) -> None:
    viewers = make()
    with pytest.raises(type(error)), viewers.admitted(kind="mjpeg", camera="gym", client="-"):
        raise error
    assert len(viewers) == 0
    assert sum(viewers.ended_total.values()) == 1


@pytest.mark.parametrize("broken", ["opened", "ended"])
def test_somebody_who_fails_to_be_told_does_not_keep_a_session_open(broken: str) -> None:
    viewers = make()

    def tell(viewer: Viewer, what: str) -> None:
        if what == broken:
            raise RuntimeError("deaf")

    viewers.on_change = tell
    with pytest.raises(RuntimeError, match="deaf"), viewers.admitted(kind="mjpeg", camera="gym", client="-"):
        pass
    assert len(viewers) == 0
    assert sum(viewers.ended_total.values()) == 1


def test_the_first_reason_counts() -> None:
    viewers = make()
    with viewers.admitted(kind="mjpeg", camera="gym", client="-") as viewer:
        assert not viewer.ending.is_set()
        viewer.end(EndReason.ADMIN)
        viewer.end(EndReason.STALLED)
        assert viewer.ending.is_set()
    assert viewers.ended_total == Counter({"admin": 1})


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_is_counted_under_its_own_name(reason: EndReason) -> None:
    viewers = make()
    with viewers.admitted(kind="mjpeg", camera="gym", client="-") as viewer:
        viewer.end(reason)
    ended = {name: value for name, value in values(viewers).items() if name.startswith("healthd_viewers_ended_total")}
    assert ended == {f"healthd_viewers_ended_total{{{known}}}": float(known is reason) for known in EndReason}


def test_a_stop_asks_all_to_end_and_admits_nobody_any_more() -> None:
    viewers = make()
    with opened(viewers), opened(viewers, None, "events"):
        first, second = viewers
        viewers.end_all(EndReason.STOP)
        assert first.ended is second.ended is EndReason.STOP
        assert first.ending.is_set()
        with pytest.raises(TooManyViewers, match="stopping"):
            opened(viewers, "rack")
    assert len(viewers) == 0


def test_a_session_ends_when_it_has_lasted_as_long_as_it_may() -> None:
    time = _Time()
    viewers = make(max_seconds=60, time=time)
    with viewers.admitted(kind="mjpeg", camera="gym", client="-") as viewer:
        assert viewer.going_on(159.9)
        assert not viewer.going_on(160.0)
    assert viewer.ended is EndReason.LIMIT
    with make(time=time).admitted(kind="mjpeg", camera="gym", client="-") as endless:
        assert endless.going_on(1e12)


@pytest.mark.parametrize(
    ("max_seconds", "reason", "until"),
    [(60, EndReason.LOGOUT, 130), (0, EndReason.LOGOUT, 130), (20, EndReason.LIMIT, 120)],
)
def test_a_session_that_came_by_a_log_in_ends_when_that_expires(
    max_seconds: float, reason: EndReason, until: float
) -> None:
    viewers = make(max_seconds=max_seconds, time=_Time())
    with viewers.admitted(kind="mjpeg", camera="gym", client="-", page=PageSession("tab", 130.0)) as viewer:
        assert viewer.going_on(until - 0.1)
        assert not viewer.going_on(until)
    assert viewer.ended is reason


def test_a_log_out_ends_what_its_page_has_opened_and_nothing_else() -> None:
    viewers = make()
    pages = (PageSession("tab", 1e12), PageSession("tab", 1e12), PageSession("phone", 1e12), None)
    with contextlib.ExitStack() as stack:
        opened_by = [
            stack.enter_context(viewers.admitted(kind="events", camera=None, client="-", page=page)) for page in pages
        ]
        viewers.end_page("tab")
        assert [viewer.ended for viewer in opened_by] == [EndReason.LOGOUT, EndReason.LOGOUT, None, None]


def test_opening_and_ending_are_logged_once_with_what_was_sent() -> None:
    time = _Time()
    viewers = make(time=time)
    with capture_logs() as logs, viewers.admitted(kind="mjpeg", camera="gym", client="10.0.0.7") as viewer:
        viewer.note_sent(items=1, skipped=2, size=300, now=101.0)
        viewer.note_sent(items=0, skipped=0, size=300, now=102.0)
        time.now += 7.25
    assert [entry["event"] for entry in logs] == ["viewer_opened", "viewer_ended"]
    ended = {key: logs[1][key] for key in ("viewer", "camera", "reason", "seconds", "sent", "skipped")}
    assert ended == {
        "viewer": viewer.viewer_id, "camera": "gym", "reason": "client", "seconds": 7.25, "sent": 1, "skipped": 2,
    }  # fmt: skip
    assert viewer.last_write_at == 102.0


def test_what_was_sent_outlives_the_session() -> None:
    viewers = make()
    for _ in range(2):
        with viewers.admitted(kind="mjpeg", camera="gym", client="-") as viewer:
            viewer.note_sent(items=3, skipped=1, size=1000, now=1.0)
    with viewers.admitted(kind="events", camera=None, client="-") as viewer:
        viewer.note_sent(items=5, skipped=0, size=50, now=1.0)
        found = values(viewers)
    assert found["healthd_stream_sent_total{gym,mjpeg}"] == 6
    assert found["healthd_stream_skipped_total{gym,mjpeg}"] == 2
    assert found["healthd_stream_sent_bytes_total{gym,mjpeg}"] == 2000
    assert found["healthd_viewers_open{gym,mjpeg}"] == 0
    assert found["healthd_stream_sent_total{,events}"] == 5
    assert found["healthd_viewers_open{,events}"] == 1


async def test_the_count_does_not_drift_whatever_way_sessions_end() -> None:
    rng = random.Random(7)
    viewers = make(total=30, per_camera=20)

    async def session() -> None:
        with viewers.admitted(
            kind=rng.choice(["mjpeg", "events"]), camera=rng.choice(["a", "b"]), client="-"
        ) as viewer:
            await asyncio.sleep(rng.random() / 1000)
            if rng.random() < 0.2:
                raise ValueError("oops")
            if rng.random() < 0.5:
                viewer.end(rng.choice(list(EndReason)))
            await asyncio.sleep(rng.random() / 1000)

    for _ in range(20):
        tasks = [asyncio.create_task(session()) for _ in range(50)]
        await asyncio.sleep(rng.random() / 1000)
        for task in rng.sample(tasks, 15):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    found = values(viewers)
    assert len(viewers) == 0
    assert viewers.count("a") == viewers.count("b") == 0
    assert sum(viewers.ended_total.values()) == viewers.admitted_total
    assert viewers.admitted_total + viewers.refused_total <= 1000
    assert viewers.refused_total > 0
    assert all(value == 0 for name, value in found.items() if name.startswith("healthd_viewers_open"))
