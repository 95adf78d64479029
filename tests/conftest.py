"""What every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from healthd.redact import SCRUBBER

ROOT = Path(__file__).resolve().parent.parent


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
