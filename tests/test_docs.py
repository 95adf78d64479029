"""The documents are true: metrics, log events and routes stand there, nothing else does, links lead somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from prometheus_client.metrics import MetricWrapperBase

from healthd.api.cameras import BOUNDS
from healthd.cameras.accounting import Drop
from healthd.cameras.health import State
from healthd.metrics import READ_METRICS, Metrics, documented_names
from tests.api.house import METHODS, open_house

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SKIPPED = {".venv", ".git", ".pytest_cache", ".mypy_cache", ".ruff_cache", "node_modules", "build", "dist"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not SKIPPED & set(path.relative_to(ROOT).parts))


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def prose(markdown: str) -> str:
    """The page without its examples."""
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def rows(markdown: str) -> Iterator[list[str]]:
    """The rows of all tables, as cells."""
    for line in prose(markdown).splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# -- metrics -----------------------------------------------------------------------------------------------------------


def known_metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels of every metric of healthd."""
    known = {read.name: (read.kind, read.labels) for read in READ_METRICS}
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            known[name] = (metric._type, tuple(metric._labelnames))
    return known


def test_every_metric_stands_in_the_docs_with_its_kind_and_labels() -> None:
    known = known_metrics()
    assert set(known) == set(documented_names())
    described = {quoted(row[0])[0]: row for row in rows(text("metrics.md")) if row[0].startswith("`healthd_")}
    assert set(described) == set(known)
    for name, (kind, labels) in known.items():
        assert described[name][1] == kind, name
        assert quoted(described[name][2]) == list(labels), name
        assert len(described[name][3]) > 10, name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_metric_is_named_that_does_not_exist(path: Path) -> None:
    known = set(documented_names()) | {
        f"{name}_{suffix}"
        for name, (kind, _) in known_metrics().items()
        if kind == "histogram"
        for suffix in ("bucket", "sum", "count")
    }
    metric = r"\bhealthd_(?:camera|jpeg|model|models|http|predict|build|ready|stream|viewer|infer)\w*"
    pattern = r"\bhealthd_\w+" if path.name == "metrics.md" else metric
    for name in re.findall(pattern, path.read_text(encoding="utf-8")):
        assert name in known, name


def test_every_reason_of_a_drop_is_explained() -> None:
    first_cells = {name for row in rows(text("metrics.md")) for name in quoted(row[0])}
    assert {reason.value for reason in Drop} <= first_cells


# -- log events --------------------------------------------------------------------------------------------------------

LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def logged(path: Path) -> Iterator[tuple[str, str, list[str | None], int]]:
    """Every event that a file logs: name, level, fields, line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        logger = node.func.value
        made_here = isinstance(logger, ast.Call) and ast.unparse(logger.func) == "structlog.get_logger"
        if not (made_here or (isinstance(logger, ast.Name) and logger.id == "log")):
            continue
        event = node.args[0] if node.args else None
        assert isinstance(event, ast.Constant), f"{path.name}:{node.lineno}: the event must be a plain name"
        fields = [keyword.arg for keyword in node.keywords]
        if node.func.attr == "exception":
            fields.append("exc_info")
        yield str(event.value), "error" if node.func.attr == "exception" else node.func.attr, fields, node.lineno


EVENTS = {
    (event, f"{path.relative_to(ROOT)}:{line}"): (level, fields)
    for path in sorted((ROOT / "healthd").rglob("*.py"))
    for event, level, fields, line in logged(path)
}


def test_every_event_stands_in_the_docs_with_its_level_and_fields() -> None:
    described = {quoted(row[0])[0]: row for row in rows(text("logging.md")) if quoted(row[0]) and len(row) == 4}
    missing = []
    for (event, where), (level, fields) in EVENTS.items():
        if event not in described:
            missing.append(f"{event} ({level}, {where}) has no row in docs/logging.md")
            continue
        _, levels, when, told = described[event]
        assert level in levels, f"{event}: {level} at {where}, {levels} in the docs"
        assert len(when) > 10, event
        for name in fields:
            if name is not None:
                wanted = "exception" if name == "exc_info" else name
                assert wanted in quoted(told), f"{event}: field `{wanted}` of {where} is not described"
    assert not missing, "\n".join(missing)


def test_no_event_is_described_that_nobody_logs() -> None:
    words = {
        node.value
        for folder in (ROOT / "healthd", *ROOT.glob("plugins/*/healthd_*"))
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for row in rows(text("logging.md")):
        if len(row) == 4 and row[0] != "event":
            assert quoted(row[0])[0] in words, row[0]


def test_an_event_is_a_name_and_not_a_sentence() -> None:
    for event, where in EVENTS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event), where


# -- routes ------------------------------------------------------------------------------------------------------------

HEADING = re.compile(r"^### `([A-Z]+) (\S+)`$", re.MULTILINE)
SAID_FOR_ALL = {"200", "400", "401", "403", "408", "413", "422", "429", "default"}


def sections() -> dict[tuple[str, str], str]:
    """What docs/api.md says of each route."""
    page = text("api.md")
    found = list(HEADING.finditer(page))
    ends = [match.start() for match in found[1:]] + [len(page)]
    return {
        (match[1].lower(), match[2]): re.split(r"^## ", page[match.end() : end], maxsplit=1, flags=re.MULTILINE)[0]
        for match, end in zip(found, ends, strict=True)
    }


async def operations() -> dict[tuple[str, str], dict[str, Any]]:
    async with open_house(auth={"keys": [{"name": "docs", "key": "k3y-of-the-documents"}]}) as house:
        document = (await house.get("/schema")).json()
    return {
        (method, path): item[method] for path, item in document["paths"].items() for method in METHODS if method in item
    }


async def test_every_route_stands_in_the_docs_and_no_other_does() -> None:
    documented = {route for route in sections() if not route[1].endswith("/ws")}  # OpenAPI knows no WebSockets
    assert documented == set(await operations())


async def test_every_parameter_and_every_answer_of_a_route_is_told() -> None:
    told = sections()
    for route, operation in (await operations()).items():
        section = told.get(route, "")
        words = set(quoted(prose(section)))
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query":
                name = parameter["name"]
                assert name in words or f"?{name}=" in section, f"{route}: parameter `{name}` is not told"
        for status in set(operation["responses"]) - SAID_FOR_ALL:
            assert status in section, f"{route}: status {status} is not told"


def test_the_bounds_of_a_change_are_told_as_they_are() -> None:
    section = sections()["patch", "/api/v1/cameras/{name}"]
    told = {quoted(row[0])[0]: row[1] for row in rows(section) if quoted(row[0])}
    assert {key: told[key].split(";")[0] for key in BOUNDS} == {
        key: f"{low:g} to {high:g}" for key, (low, high) in BOUNDS.items()
    }


async def test_every_field_of_a_camera_and_every_state_is_explained() -> None:
    async with open_house(cameras={"gym": {"enabled": False}}) as house:
        (camera,) = (await house.get("/api/v1/cameras")).json()
    words = {word for row in rows(sections()["get", "/api/v1/cameras"]) for cell in row for word in quoted(cell)}
    assert set(camera) <= words
    assert {state.value for state in State} <= words


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page, as the usual renderers make them."""
    headings = re.findall(r"^#+ +(.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / unquote(target)).resolve() if target else page
        assert path.exists(), f"{page.relative_to(ROOT)}: {link}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.relative_to(ROOT)}: {link}"
