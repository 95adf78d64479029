"""What stands on the wall is never older than was configured, whatever the camera does, and comes back by itself."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faulty_plugin.installed.healthd_faulty.stamps import now_ms, stamp_of
from tests.process.daemon import Daemon, until
from tests.process.watching import Answer, Watcher, ids_that_went_back, ids_used_twice

pytestmark = pytest.mark.process

STALL_SECONDS = 2.0
STALE_SECONDS = 2.0
FROZEN_SECONDS = 2.5
CHECK_SECONDS = 0.25
"""A frozen picture is looked for so often."""

SLACK_SECONDS = 0.4
"""From the making of a picture to its publishing, on a loaded machine."""

KNOWN_SECONDS = 1.5
"""To ask the API for one camera after the other, on a loaded machine."""

BACK_SECONDS = 5.0
"""Generous: pauses between attempts are half a second at most here."""

MISDEEDS = {
    "hang": {"stalled"},
    "end": {"reconnecting"},
    "lose": {"reconnecting"},
    "bug": {"reconnecting"},
    "freeze": {"frozen"},
    "none": {"stalled", "reconnecting"},
}
"""What a camera does for a while, and the states that may be told of it meanwhile."""

FOLLOWED = {"hang", "lose"}
"""These are watched in three ways at once."""


@dataclass
class History:
    """Everything that was answered for one camera, and when it was told to misbehave and to go on."""

    misbehaved_at: float = 0.0
    back_at: float = 0.0
    known_at: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    drawn: list[Answer] = field(default_factory=list)
    """The answers with the prediction drawn on them."""
    meanwhile: dict[str, Any] = field(default_factory=dict)
    afterwards: dict[str, Any] = field(default_factory=dict)
    loads: int = 0
    sessions: int = 0


def settings(folder: Any) -> dict[str, Any]:
    cameras = {
        name: {
            "plugin": "faulty",
            "stall_timeout_seconds": STALL_SECONDS,
            "stale_after_seconds": STALE_SECONDS,
            "frozen_after_seconds": FROZEN_SECONDS,
            "open_timeout_seconds": 1,
            "reconnect_max_seconds": 0.5,
            "max_abandoned_workers": 16,
            "options": {
                "fps": 15,
                "model": "own",
                "journal": str(folder / "journal"),
                "orders": str(folder / f"{name}.orders"),
            },
        }
        for name in [*MISDEEDS, "fine"]
    }
    return {"cameras": cameras}


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, History]:
    """Let every camera misbehave at the same time, for five seconds; the one called `fine` never does."""
    folder = tmp_path_factory.mktemp("freshness")
    found = {name: History() for name in [*MISDEEDS, "fine"]}
    with Daemon(folder, settings(folder)) as daemon, contextlib.ExitStack() as stack:
        for name in found:
            daemon.until_state(name, "live", seconds=40)
        plain = {name: [stack.enter_context(Watcher(daemon.port, name))] for name in found}
        drawn = {}
        for name in FOLLOWED:
            plain[name].append(stack.enter_context(Watcher(daemon.port, name, follow=True)))
            drawn[name] = stack.enter_context(Watcher(daemon.port, name, query="overlay=true"))
        until(lambda: all(len(watchers[0].answers) > 5 for watchers in plain.values()))
        for name, history in found.items():
            history.misbehaved_at = time.monotonic()
            if name in MISDEEDS:
                (folder / f"{name}.orders").write_text(name, encoding="utf-8")
        for name, history in found.items():
            if name in MISDEEDS:
                history.meanwhile = daemon.until_state(name, *MISDEEDS[name], seconds=10)
                history.known_at = time.monotonic()
        until(lambda: time.monotonic() > found["fine"].misbehaved_at + 5.0)
        for name, history in found.items():
            (folder / f"{name}.orders").write_text("live", encoding="utf-8")
            history.back_at = time.monotonic()
        for name, history in found.items():
            history.afterwards = daemon.until_state(name, "live", seconds=20)
        until(lambda: time.monotonic() > found["fine"].back_at + BACK_SECONDS)
        stack.close()
        journal = (folder / "journal").read_text(encoding="utf-8").split("\n")
        for name, history in found.items():
            history.answers = [answer for watcher in plain[name] for answer in watcher.answers]
            history.drawn = drawn[name].answers if name in drawn else []
            history.loads = journal.count(f"{name} loaded")
            history.sessions = journal.count(f"{name} opened")
            failures = [watcher.failure for watcher in [*plain[name], *([drawn[name]] if name in drawn else [])]]
            assert failures == [None] * len(failures)
        assert daemon.stop()[0] == 0
    return found


def age(answer: Answer) -> float:
    """Return how old the picture itself says it was when it was asked for, in seconds."""
    stamp = stamp_of(answer.picture)
    assert stamp is not None, "a smeared picture"
    asked_ms = now_ms() - round((time.monotonic() - answer.sent) * 1000)
    return (asked_ms - stamp.made_ms) / 1000


def number(picture: Any) -> int | None:
    stamp = stamp_of(picture)
    return stamp.number if stamp else None


ALL = [*MISDEEDS, "fine"]


@pytest.mark.parametrize("name", ALL)
def test_no_picture_is_ever_older_than_was_configured(name: str, histories: dict[str, History]) -> None:
    bound = FROZEN_SECONDS + CHECK_SECONDS if name == "freeze" else STALE_SECONDS
    pictures = [answer for answer in histories[name].answers + histories[name].drawn if answer.status == 200]
    assert len(pictures) > 20
    assert max(age(answer) for answer in pictures) <= bound + SLACK_SECONDS


@pytest.mark.parametrize("name", MISDEEDS)
def test_a_camera_that_is_lost_is_a_404_with_its_state_until_it_is_back(
    name: str, histories: dict[str, History]
) -> None:
    history = histories[name]
    bound = FROZEN_SECONDS + CHECK_SECONDS if name == "freeze" else STALE_SECONDS
    dark = history.misbehaved_at + bound + SLACK_SECONDS
    meanwhile = [answer for answer in history.answers if answer.sent > dark and answer.received < history.back_at]
    assert len(meanwhile) > 5
    assert {answer.status for answer in meanwhile} == {404}
    assert {answer.state for answer in meanwhile} <= MISDEEDS[name]
    assert all(answer.reason for answer in meanwhile)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hang", "no image"),
        ("end", "the stream has ended"),
        ("lose", "nobody answers"),
        ("bug", "ZeroDivisionError"),
        ("freeze", "not changed"),
        ("none", ""),
    ],
)
def test_the_api_says_what_is_wrong_within_the_configured_time(
    name: str, reason: str, histories: dict[str, History]
) -> None:
    history = histories[name]
    bound = FROZEN_SECONDS + CHECK_SECONDS if name == "freeze" else STALL_SECONDS
    assert history.known_at - history.misbehaved_at < bound + KNOWN_SECONDS
    said = [answer.reason for answer in history.answers if answer.reason]
    assert any(reason in text for text in said), set(said)
    assert not history.meanwhile["has_frame"]
    assert history.meanwhile["connected"] is (name == "freeze")


@pytest.mark.parametrize("name", MISDEEDS)
def test_a_camera_that_is_well_again_comes_back_by_itself(name: str, histories: dict[str, History]) -> None:
    history = histories[name]
    back = [answer for answer in history.answers if answer.sent > history.back_at and answer.status == 200]
    assert back, "it did not come back"
    assert back[0].received - history.back_at < BACK_SECONDS
    assert all(answer.status != 404 for answer in history.answers if answer.sent > back[0].received)
    assert history.afterwards["reason"] is None


@pytest.mark.parametrize("name", ALL)
def test_losing_a_camera_does_not_load_its_model_again(name: str, histories: dict[str, History]) -> None:
    assert histories[name].loads == 1
    assert histories[name].sessions == 1 if name in {"fine", "freeze"} else histories[name].sessions > 1


@pytest.mark.parametrize("name", ALL)
def test_frame_ids_never_go_back_and_never_name_two_pictures(name: str, histories: dict[str, History]) -> None:
    history = histories[name]
    assert ids_that_went_back(history.answers) == []
    assert ids_that_went_back(history.drawn) == []
    assert ids_used_twice(history.answers + history.drawn, number) == []


def test_a_camera_that_is_well_notices_nothing_of_the_others(histories: dict[str, History]) -> None:
    fine = histories["fine"]
    dark = [
        (answer.sent - fine.misbehaved_at, answer.state, answer.reason)
        for answer in fine.answers
        if answer.status != 200
    ]
    assert dark == [], fine.back_at - fine.misbehaved_at
    seconds = fine.answers[-1].received - fine.answers[0].received
    assert len(fine.answers) > 3 * seconds
    assert max(age(answer) for answer in fine.answers) < STALE_SECONDS


def test_an_answer_says_the_age_of_its_picture(histories: dict[str, History]) -> None:
    """Also of the last picture of a camera that hangs, which grows old before it is taken away."""
    for name in ("fine", "hang"):
        pictures = [
            (answer, answer.said_age)
            for answer in histories[name].answers
            if answer.status == 200 and answer.said_age is not None
        ]
        assert len(pictures) > 20
        late = [said - age(answer) - (answer.received - answer.sent) for answer, said in pictures]
        assert max(late) < 0.05, "older than it was when the answer was there"
        early = sorted(age(answer) - said for answer, said in pictures)
        assert early[int(len(early) * 0.95)] < SLACK_SECONDS, "younger than it was when it was asked for"
    assert max(answer.said_age or 0.0 for answer in histories["hang"].answers) > 1.0
