"""What every test may use."""

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from healthd.redact import SCRUBBER

ROOT = Path(__file__).resolve().parent.parent

LONGEST = (
    "test_openapi.py",
    "test_jobs_crash.py",
    "test_panel.py",
    "test_jobs_redis.py",
    "test_prepare.py",
    "test_secrets.py",
    "test_plugin_path.py",
    "test_infer_command.py",
    "test_stop.py",
    "test_wheels.py",
)
"""Of the files that start daemons those of half a minute and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files: those that start daemons go last, among themselves; of them long ones between short ones, early.

    A long one that came last would run alone, all else done; long ones all at once are in each other's way.
    """
    of_daemons = sorted({item.path for item in items if item.get_closest_marker("process")})
    longest = [path for name in LONGEST for path in of_daemons if path.name == name]
    others = [path for path in of_daemons if path not in longest]
    order = [path for some in zip_longest(longest, others[::2], others[1::2]) for path in some if path is not None]
    ranks = {path: number for number, path in enumerate(order, 1)}
    items.sort(key=lambda item: ranks.get(item.path, 0))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled models of the tests go where the tests' other files go, in the daemons they start as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_secrets() -> Iterator[None]:
    """What one test calls a secret is an ordinary word to the next."""
    known, patterns = dict(SCRUBBER._known), SCRUBBER._patterns
    yield
    SCRUBBER._known, SCRUBBER._patterns = known, patterns


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real weights and clips; the test is skipped where they are absent."""
    folder = Path(os.environ.get("HEALTHD_TEST_ASSETS", ROOT.parent / "shared" / "assets"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"no real weights: set HEALTHD_TEST_ASSETS (looked in {folder.name}/ beside the repository)")
    return folder
