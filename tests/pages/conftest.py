"""What the tests of the pages share: a browser for each file, pages that are watched, the demo."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from tests.pages.browser import Open, chromium, opener
from tests.process.daemon import TESTS, Daemon


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for one file: while it runs, no event loop of another test can."""
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    with opener(browser) as open_:
        yield open_


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """`healthd demo`: what somebody has who has just installed healthd."""
    try:
        version("healthd-yolo")
    except PackageNotFoundError:
        pytest.skip("healthd-yolo is not installed")
    beside = TESTS.parent / "plugins" / "healthd-yolo"  # whatever else is installed
    with Daemon(tmp_path_factory.mktemp("demo"), arguments=["demo", "--port", 0], plugins=[beside]) as running:
        yield running.until_ready(seconds=60)
