"""What a plugin does to others while it is imported: noticed, named, put back; and it is loaded all the same."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from healthd.logs import configure_logging
from healthd.plugin_watch import _SHARED, _read
from tests.installing import IN_C, Site, after, loaded, loaded_one


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with Site(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def restored() -> Iterator[None]:
    """All of it is as before, whatever the test did."""
    before = [(shared, _read(shared)) for shared in _SHARED]
    yield
    for shared, value in before:
        if shared.put_back is not None:
            shared.put_back(value)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("code", "note"),
    [
        (IN_C.format(number=15), "how signals are handled (SIGTERM); put back"),
        (IN_C.format(number=12), "how signals are handled (SIGUSR2); put back"),
        ("import faulthandler; faulthandler.register(10)", "how signals are handled (SIGUSR1); put back"),
        ("import logging; logging.getLogger().setLevel(5)", "the root logger; put back"),
        ("import logging; logging.basicConfig(force=True)", "the root logger; put back"),
        ("import logging; logging.disable()", "logging.disable; put back"),
        ("import logging.config; logging.config.dictConfig({'version': 1})", "the loggers of healthd; put back"),
        ("import structlog; structlog.configure(processors=[])", "the configuration of structlog; put back"),
        ("import sys; sys.excepthook = print", "the hooks for uncaught errors and warnings; put back"),
        ("import logging; logging.captureWarnings(True)", "the hooks for uncaught errors and warnings; put back"),
        ("import warnings; warnings.simplefilter('error', UserWarning)", "warnings into errors; put back"),
        ("import asyncio as a\nclass P(a.DefaultEventLoopPolicy): __module__ = 'uv'\na.set_event_loop_policy(P())",
         "the event-loop policy; put back"),
        ("import os; os.chdir('/')", "the working directory; put back"),
        ("import os; os.umask(0o177)", "the umask; put back"),
        ("import locale; locale.setlocale(locale.LC_ALL, 'C' if 'UTF' in locale.setlocale(0) else 'C.UTF-8')",
         "the locale; put back"),
        ("import os; os.environ['HEALTHD_SERVER__PORT'] = '1'", "HEALTHD_ variables; put back"),
        ("import socket; socket.setdefaulttimeout(1)", "the default timeout of sockets; put back"),
        ("import ssl; ssl._create_default_https_context = ssl._create_unverified_context",
         "whether urllib checks certificates; put back"),
        ("import sys; sys.setswitchinterval(1)", "how often threads take turns; put back"),
        ("import gc; gc.disable()", "the garbage collector; put back"),
        ("import sys; sys.path.insert(0, '/elsewhere')", "sys.path; left so"),
    ],
)  # fmt: skip
async def test_what_belongs_to_all_is_put_back_and_named(site: Site, code: str, note: str) -> None:
    logging.getLogger("healthd.elsewhere")  # exists before, so that `dictConfig` disables it
    before = [_read(shared) for shared in _SHARED]
    plugin = await loaded_one(site("guest", after(code), distribution="healthd-guest"))
    assert plugin.state == "loaded", plugin.reason
    assert plugin.notes == (f"it changed {note}",)
    changed = [shared.what for shared, value in zip(_SHARED, before, strict=True) if _read(shared) != value]
    assert changed == (["sys.path"] if "sys.path" in note else [])


async def test_a_plugin_that_leaves_all_as_it_was_has_no_notes(site: Site) -> None:
    assert (await loaded_one(site("guest", after("import asyncio; asyncio.get_event_loop_policy()")))).notes == ()


async def test_threads_that_go_on_are_named(site: Site) -> None:
    code = (
        "import threading\nend = threading.Event()\nthreading.Thread(target=end.wait, args=(10,), name='poll').start()"
    )
    plugin = await loaded_one(site("guest", after(code)))
    assert plugin.notes == ("it started a thread that goes on: poll",)
    sys.modules["guest"].end.set()


PRINTING = r"""
import ctypes, logging, os, subprocess, sys
print("hello", flush=True)
print("rtsp://admin:hunter2hunter2@cam.lan/1", file=sys.stderr)
os.write(1, b"from the descriptor\n")
os.write(2, b"and the other\n")
ctypes.CDLL(None).printf(b"held back by C\n")
subprocess.run(["echo", "from a child"])
handler = logging.StreamHandler(sys.stdout)
"""


async def test_what_it_prints_goes_to_the_log_without_secrets_and_to_nobody_else(
    site: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging("info", "json")
    plugin = await loaded_one(site("guest", after(PRINTING), distribution="healthd-guest"))
    out, err = capfd.readouterr()
    assert plugin.notes == ("it printed 6 lines: hello",)
    assert out == ""
    assert "hunter2" not in err
    (printed,) = [line for line in err.splitlines() if '"plugin_printed"' in line]
    for text in ("healthd-guest", "cam.lan", "from the descriptor", "and the other", "held back by C", "from a child"):
        assert text in printed
    misbehaved = [line for line in err.splitlines() if '"plugin_misbehaved"' in line]
    assert len(misbehaved) == 1
    assert '"plugin": "guest"' in misbehaved[0]
    sys.modules["guest"].handler.stream.write("late\n")
    assert capfd.readouterr() == ("", "late\n")


async def test_streams_that_it_replaces_are_put_back(site: Site) -> None:
    before = sys.stdout, sys.stderr
    plugin = await loaded_one(site("guest", after("import io, sys; sys.stderr = io.StringIO(); sys.stdout.close()")))
    assert plugin.notes == ("it replaced sys.stderr; put back",)
    assert (sys.stdout, sys.stderr) == before


async def test_a_python_signal_handler_is_refused_and_the_reason_says_why(site: Site) -> None:
    plugin = await loaded_one(site("guest", "import signal; signal.signal(signal.SIGTERM, print)"))
    assert plugin.state == "broken"
    assert "imported on a thread of its own and handles no signals, healthd does: remove that call" in str(
        plugin.reason
    )


async def test_a_plugin_that_fails_is_watched_too_and_one_that_still_runs_is_named_beside_it(site: Site) -> None:
    hanging = "import threading\ngo_on = threading.Event()\ngo_on.wait(10)"
    site("broken", "print('before it fails'); 1 / 0")
    plugins = {plugin.name: plugin for plugin in await loaded(site("awkward", hanging), timeout_seconds=1.0)}
    assert plugins["broken"].reason == "ZeroDivisionError: division by zero"
    assert plugins["broken"].notes[0] == "it printed 1 line: before it fails"
    assert plugins["broken"].notes[1:] in ((), ("or it was awkward, whose import was given up and still runs",))
    sys.modules["awkward"].go_on.set()
