"""Keys as they may stand in a configuration, and what it costs to try wrong ones."""

import asyncio
import hmac
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import ValidationError

from healthd.api import attempts
from healthd.api.attempts import Attempts
from healthd.api.auth import Authenticator, TooManyAttempts
from healthd.api.keys import KeyRing
from healthd.clients import client_of
from healthd.key_hash import hash_key, new_key, read_hash
from healthd.settings_server import ApiKey
from tests.api.house import ADMIN_KEY, READ_KEY, MovableClock, assert_error, open_house
from tests.fakes import FakeSource

ROOT = Path(__file__).parent.parent.parent
HASHED = hash_key(ADMIN_KEY)
HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_a_hash_says_nothing_of_its_key_and_fits_it_alone() -> None:
    assert hash_key(ADMIN_KEY) != HASHED
    assert ADMIN_KEY not in HASHED
    assert read_hash(HASHED).fits(ADMIN_KEY)
    assert not read_hash(HASHED).fits(ADMIN_KEY + "x")
    assert len(new_key()) == 43
    assert ApiKey.model_validate({"name": "panel", "key": HASHED}).key.reveal() == HASHED


@pytest.mark.parametrize(
    "text",
    ["scrypt:", "scrypt:16384:8:5:c2FsdA:aGFzaA", HASHED[:-3], HASHED.replace("16384", "999424"), HASHED + "=" * 9],
    ids=["empty", "short", "cut", "too dear", "too long"],  # the hash is another each time
)
def test_what_is_no_hash_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValidationError, match="healthd auth hash") as caught:
        ApiKey.model_validate({"name": "panel", "key": text})
    assert text.partition(":")[2][:12] not in str(caught.value) or len(text) < 12


async def test_a_hashed_key_is_hashed_once_and_known_from_then_on() -> None:
    ring = KeyRing([("wall", READ_KEY, "read"), ("panel", HASHED, "admin")])
    assert ring.known(ADMIN_KEY) is None
    assert await ring.find("no-such-key-no-such") is None
    found = await ring.find(ADMIN_KEY)
    assert found is not None
    assert (found.name, found.scope) == ("panel", "admin")
    begun = time.perf_counter()
    assert ring.known(ADMIN_KEY) is found
    assert await ring.find("no-such-key-no-such") is None  # nothing is left that it could be
    assert time.perf_counter() - begun < 0.02
    assert ADMIN_KEY not in repr(vars(ring))


def test_every_key_is_compared_in_constant_time_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing([("wall", READ_KEY, "read"), ("panel", ADMIN_KEY, "admin")])
    compare, lengths = hmac.compare_digest, list[tuple[int, int]]()

    def noted(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for key, name in ((READ_KEY, "wall"), (ADMIN_KEY, "panel"), (READ_KEY[:-1] + "!", ""), ("", ""), ("é" * 99, "")):
        found = ring.known(key)
        assert (found.name if found else "") == name
        assert lengths == [(32, 32)] * 2, key
        lengths.clear()
    assert not read_hash(HASHED).fits(READ_KEY)
    assert lengths == [(32, 32)], "a hash, too"


async def test_checks_of_hashes_are_bounded_and_leave_the_loop_alone() -> None:
    auth = Authenticator([("panel", HASHED, "admin")])
    asked = [asyncio.create_task(auth.by_key(f"no-such-key-{n:08}", client=f"10.0.{n}.1")) for n in range(30)]
    longest, before = 0.0, time.perf_counter()
    while not all(task.done() for task in asked):
        await asyncio.sleep(0.005)
        longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, TooManyAttempts) for answer in answers) == 22
    assert answers.count(None) == 8
    assert longest < 0.2


async def test_wrong_keys_are_limited_for_each_client_and_right_ones_go_on() -> None:
    time_ = MovableClock()
    auth = Authenticator([("wall", READ_KEY, "read"), ("panel", ADMIN_KEY, "admin")], clock=time_.clock)
    assert await auth.by_key(READ_KEY, client=HERE) is not None
    for _ in range(attempts.BURST):
        assert await auth.by_key("wrong-wrong-wrong", client=HERE) is None
    with pytest.raises(TooManyAttempts) as caught:
        await auth.by_key("wrong-wrong-wrong", client=HERE)
    assert 1 <= caught.value.seconds <= attempts.SECONDS_EACH
    assert await auth.by_key(READ_KEY, client=HERE) is not None  # it has been here before
    with pytest.raises(TooManyAttempts):  # the other key has not: nobody learns that it is one
        await auth.by_key(ADMIN_KEY, client=HERE)
    assert auth.identify({"x-api-key": ADMIN_KEY}, {}, client=HERE) is None
    assert await auth.by_key(ADMIN_KEY, client=THERE) is not None
    time_.ahead += attempts.SECONDS_EACH
    assert await auth.by_key(ADMIN_KEY, client=HERE) is not None


def guessed(tried: Attempts, time_: MovableClock, clients: Iterable[str], *, seconds: float) -> int:
    """Have clients be wrong, one after the other over so long; return how many keys were looked at."""
    clients = list(clients)
    looked_at = 0
    for client in clients:
        time_.ahead += seconds / len(clients)
        if tried.wait_seconds(client) == 0:
            tried.take(client)
            tried.note_wrong(client)
            looked_at += 1
    return looked_at


def test_all_clients_together_are_limited_however_slowly_each_of_them_guesses() -> None:
    time_ = MovableClock()
    tried = Attempts(clock=time_.clock)
    some = [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]
    every, rounds = attempts.SECONDS_EACH + 0.1, 5
    looked_at = sum(guessed(tried, time_, some, seconds=every) for _ in range(rounds))
    assert looked_at <= 2 * (attempts.ALL_BURST + rounds * every / attempts.ALL_SECONDS_EACH)
    guessed(tried, time_, some, seconds=1800)  # now all of them were wrong
    assert guessed(tried, time_, some * 2, seconds=5) <= attempts.ALL_BURST + 5 / attempts.ALL_SECONDS_EACH
    assert tried.wait_seconds("192.0.2.9") == 0, "who was never wrong has attempts that these do not use up"


def test_ever_new_clients_are_limited_too_and_who_has_shown_a_right_key_is_not() -> None:
    time_ = MovableClock()
    tried = Attempts(clock=time_.clock)
    tried.note_right(HERE, "wall")
    most = attempts.MAX_CLIENTS + 1000
    new = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(most))
    assert guessed(tried, time_, new, seconds=10.0) <= attempts.ALL_BURST + 10.0 / attempts.ALL_SECONDS_EACH + 1
    assert tried.is_known(HERE, "wall"), "nobody without a key makes it be forgotten"
    assert tried.wait_seconds(HERE) == 0
    assert tried.wait_seconds(THERE) > 0
    time_.ahead += 1.0
    assert tried.wait_seconds(THERE) == 0


async def test_who_has_shown_a_key_that_is_gone_or_another_now_is_as_anybody_else() -> None:
    auth = Authenticator([("wall", READ_KEY, "read"), ("panel", ADMIN_KEY, "admin")])
    for key in (READ_KEY, ADMIN_KEY):
        assert await auth.by_key(key, client=HERE) is not None
    auth.replace([("wall", READ_KEY, "read"), ("panel", "another-" + ADMIN_KEY, "admin")], session_seconds=1)
    for _ in range(attempts.BURST):
        await auth.by_key("wrong-wrong-wrong", client=HERE)
    with pytest.raises(TooManyAttempts):
        await auth.by_key("another-" + ADMIN_KEY, client=HERE)
    assert await auth.by_key(READ_KEY, client=HERE) is not None


def test_what_is_remembered_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_CLIENTS", 50)
    tried = Attempts()
    for number in range(500):
        tried.take(f"10.0.{number // 250}.{number % 250}")
        tried.note_right("192.0.2.1", f"key{number}")
    assert len(tried) <= 50
    assert sum(tried.is_known("192.0.2.1", f"key{number}") for number in range(500)) <= attempts.MAX_RIGHT


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("", "unknown"),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(address: str, client: str) -> None:
    assert client_of(address) == client


async def test_every_way_in_is_limited_and_log_and_metrics_tell_of_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    keys = [{"name": "panel", "key": HASHED, "scope": "admin"}, {"name": "wall", "key": READ_KEY}]
    async with open_house({"gym": FakeSource()}, auth={"keys": keys}) as house:
        assert (await house.get("/api/v1/cameras", headers={"X-Api-Key": ADMIN_KEY})).status_code == 200
        for _ in range(attempts.BURST):
            assert_error(await house.client.post("/api/v1/auth/login", json={"key": "guess-guess-guess"}), 401)
        wrong = {"Authorization": "Bearer guess-guess-guess"}
        for path in ("cameras", "cameras/gym/snapshot", "cameras/gym/stream", "events/stream", "auth/session"):
            refused = await house.get(f"/api/v1/{path}", headers=wrong)
            assert_error(refused, 429)
            assert 1 <= int(refused.headers["retry-after"]) <= attempts.SECONDS_EACH
        assert_error(await house.client.post("/api/v1/auth/login", json={"key": READ_KEY}), 429)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        socket = await house.get("/api/v1/ws", headers={**wrong, **upgrade})
        assert (socket.status_code, int(socket.headers["retry-after"]) > 0) == (429, True)
        assert (await house.get("/api/v1/cameras", headers={"X-Api-Key": ADMIN_KEY})).status_code == 200
        metrics = (await house.get("/metrics")).text
        assert f'healthd_key_refusals_total{{reason="wrong"}} {attempts.BURST}.0' in metrics
        assert 'healthd_key_refusals_total{reason="limited"} 7.0' in metrics
    logged = "".join(capfd.readouterr())
    assert logged.count("key_refused") == attempts.BURST
    assert logged.count("key_attempts_limited") == 1
    assert "guess" not in logged


async def test_a_cookie_that_has_expired_is_no_attempt() -> None:
    async with open_house(auth={"keys": [{"name": "wall", "key": READ_KEY}]}) as house:
        for _ in range(3 * attempts.BURST):
            assert_error(await house.get("/api/v1/cameras", headers={"Cookie": "healthd_session=gone"}), 401)
        assert (await house.client.post("/api/v1/auth/login", json={"key": READ_KEY})).status_code == 200


def test_a_key_is_taken_from_standard_input_and_never_from_the_arguments() -> None:
    command = [sys.executable, "-m", "healthd", "auth"]
    done = subprocess.run(
        [*command, "hash"], input=f"{ADMIN_KEY}\n", capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert read_hash(done.stdout.strip()).fits(ADMIN_KEY)
    short = subprocess.run([*command, "hash"], input="short\n", capture_output=True, text=True, cwd=ROOT, check=False)
    assert (short.returncode, short.stdout) == (2, "")
    assert "16" in short.stderr
    argued = subprocess.run([*command, "hash", ADMIN_KEY], capture_output=True, text=True, cwd=ROOT, check=False)
    assert argued.returncode == 2


def test_on_a_terminal_the_key_is_asked_for_twice_and_not_shown() -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "healthd", "auth", "hash"]
    asking = subprocess.Popen(
        command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, cwd=ROOT, start_new_session=True
    )
    os.close(slave)
    shown = b""
    for asked in (b"key: ", b"once more: "):
        while asked not in shown:
            shown += os.read(master, 1024)
        os.write(master, f"{ADMIN_KEY}\n".encode())
    printed, _ = asking.communicate(timeout=30)
    os.close(master)
    assert read_hash(printed.decode().strip()).fits(ADMIN_KEY)
    assert ADMIN_KEY.encode() not in shown
