"""The page's own reader of Motion JPEG, in a real browser, with streams that are cut anywhere and wrong anywhere."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

import healthd
from tests.fuzzing import MORE, SEED
from tests.pages.browser import Open

STATIC = Path(healthd.__file__).parent / "web"
HERE = Path(__file__).parent
ROUNDS = max(100, MORE)
pytestmark = pytest.mark.timeout(60 + ROUNDS // 10)


def test_the_reader_of_streams_gives_all_parts_as_they_were_sent_and_refuses_nonsense(open_page: Open) -> None:
    page = open_page("about:blank").page

    def serve(route, request) -> None:  # type: ignore[no-untyped-def]
        name = urlsplit(request.url).path.rpartition("/")[2]
        if not name:
            route.fulfill(body="<!doctype html><title>nothing</title>", content_type="text/html")
            return
        folder = HERE if name.startswith("fuzz") else STATIC
        route.fulfill(path=folder / name, content_type="text/javascript")

    page.route("http://house.test/**", serve)
    page.goto("http://house.test/")
    page.set_default_timeout(1000 * (50 + ROUNDS // 10))
    told = page.evaluate(
        """async ([seed, rounds]) => {
          const { readStream } = await import("/static/mjpeg.js");
          const { run } = await import("/static/fuzz_stream.js");
          return await run(readStream, seed, rounds);
        }""",
        [SEED, ROUNDS],
    )
    assert told["failures"] == []
    assert told["refused"] >= ROUNDS // 4, "hardly any of the streams was wrong"
