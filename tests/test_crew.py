"""A crew: calls off the event loop, so many at a time, none for whom nobody waits, none that holds the exit."""

import asyncio
import subprocess
import sys
import threading

import pytest

from healthd.crew import Crew
from tests.eventually import eventually


async def test_so_many_calls_run_at_a_time_and_the_others_wait() -> None:
    crew, running, most, lock = Crew("test", threads=2), 0, 0, threading.Lock()

    def call(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1
        return number

    assert await asyncio.gather(*(crew.run(lambda n=n: call(n)) for n in range(10))) == list(range(10))
    assert most == 2


async def test_what_a_call_raises_is_raised_where_it_was_asked_for_and_the_thread_goes_on() -> None:
    crew = Crew("test", threads=1)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(ZeroDivisionError):
        await crew.run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="SystemExit"):
        await crew.run(leave)
    assert await crew.run(threading.current_thread) is await crew.run(threading.current_thread)


async def test_a_call_that_nobody_waits_for_any_more_is_not_made() -> None:
    crew, go, made = Crew("test", threads=1), threading.Event(), []
    first = asyncio.create_task(crew.run(go.wait))
    second = asyncio.create_task(crew.run(lambda: made.append(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    go.set()
    assert await first
    assert await crew.run(lambda: "third") == "third"
    assert not made


async def test_a_call_that_is_given_up_keeps_its_thread_until_it_returns_and_no_longer() -> None:
    crew, go, held = Crew("test", threads=1), threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go.wait()

    first = asyncio.create_task(crew.run(hold))
    await eventually(held.is_set)
    first.cancel()
    second = asyncio.create_task(crew.run(lambda: "second"))
    assert not (await asyncio.wait([second], timeout=0.05))[0]
    go.set()
    assert await asyncio.wait_for(second, 5) == "second"


def test_a_call_that_never_returns_does_not_hold_the_exit() -> None:
    code = (
        "import asyncio, threading\n"
        "from healthd.crew import Crew\n"
        "async def main():\n"
        "    task = asyncio.create_task(Crew('test', threads=1).run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
