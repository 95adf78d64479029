"""How `healthd top` looks: tables for a terminal of any width, and plain lines for everything else."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from healthd.top_report import Camera, Daemon, Report, Viewer

WIDE = 110
"""From here on, the drops of each reason stand in the table; below, under it."""
LATE_SECONDS = 2.0
"""An answer this much older than the interval is called late."""
STYLES = {
    "live": "green",
    "ready": "green",
    "starting": "cyan",
    "loading": "cyan",
    "draining": "yellow",
    "stalled": "yellow",
    "reconnecting": "yellow",
    "retrying": "yellow",
    "frozen": "magenta",
    "failed": "bold red",
    "ended": "dim",
    "paused": "dim",
    "stopped": "dim",
    "none": "dim",
}
"""Of the states of the daemon, a camera and a model. The words say the same without colours."""


def state(word: str) -> Text:
    """Colour a state."""
    return Text(word, STYLES.get(word, ""))


def by_reason(camera: Camera) -> str:
    """Tell the drops per second of each reason, the most frequent first."""
    rates = camera.dropped_per_second_by_reason or {}
    return ", ".join(f"{why} {rate(rates[why])}" for why in sorted(rates, key=lambda why: -rates[why]))


def process(camera: Camera) -> str:
    """Tell what the process of a camera holds for itself; `none`: it is read in a thread."""
    return "none" if camera.isolation == "thread" else size(camera.process_memory_bytes)


def rate(per_second: float | None) -> str:
    """Write a rate."""
    return "-" if per_second is None else f"{per_second:.1f}"


def count(number: int | None) -> str:
    """Write a count in at most five characters or so."""
    if number is None:
        return "-"
    for unit, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if number >= 10 * unit:
            return f"{number / unit:.1f}{letter}"
    return str(number)


def size(size_bytes: int | None) -> str:
    """Write a size in memory."""
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes < 2**30 else f"{size_bytes / 2**30:.2f} GiB"


def age(milliseconds: float | None) -> str:
    """Write an age."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else duration(milliseconds / 1000)


def duration(seconds: float) -> str:
    """Write how long, in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    days, hours_rest = divmod(hours, 24)
    if days:
        return f"{days} d {hours_rest} h"
    if hours:
        return f"{hours} h {minutes_rest} min"
    return f"{minutes} min" if minutes else f"{rest} s"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, shown from so many columns of the terminal on."""

    title: str
    cell: Callable[[Any], str | Text]
    from_width: int = 0
    right: bool = True


CAMERA_COLUMNS: tuple[Column, ...] = (
    Column("camera", lambda camera: camera.name, right=False),
    Column("state", lambda camera: state(camera.state), right=False),
    Column("fps", lambda camera: rate(camera.fps)),
    Column("pred", lambda camera: rate(camera.predicted_fps)),
    Column("age", lambda camera: age(camera.frame_age_ms)),
    Column("drop/s", lambda camera: rate(camera.dropped_per_second)),
    Column("view", lambda camera: count(camera.viewers)),
    Column("dropped", lambda camera: count(camera.dropped), 80),
    Column("reconn", lambda camera: count(camera.reconnects), 80),
    Column("model", lambda camera: state(camera.model.state), 80, right=False),
    Column("process", process, 120),
    Column("drop/s by reason", by_reason, WIDE, right=False),
)

VIEWER_COLUMNS: tuple[Column, ...] = (
    Column("viewer", lambda viewer: viewer.id, right=False),
    Column("camera", lambda viewer: viewer.camera or "all", right=False),
    Column("client", lambda viewer: viewer.client, right=False),
    Column("sent/s", lambda viewer: rate(viewer.sent_per_second)),
    Column("idle", lambda viewer: age(viewer.last_write_age_ms)),
    Column("open", lambda viewer: duration(viewer.open_seconds)),
    Column("kind", lambda viewer: viewer.kind, 80, right=False),
    Column("sent", lambda viewer: count(viewer.sent), 80),
    Column("skipped", lambda viewer: count(viewer.skipped), 80),
    Column("q", lambda viewer: "-" if viewer.quality is None else str(viewer.quality), 80),
)


def view(report: Report, *, width: int, interval_seconds: float = 1.0) -> RenderableType:
    """Draw a report for a terminal of that width: what is wrong first, then cameras, then viewers."""
    if report.daemon is None:
        return _problem(report)
    parts: list[RenderableType] = [_daemon(report, report.daemon, interval_seconds), *_troubles(report.cameras), ""]
    parts.append(_table(CAMERA_COLUMNS, report.cameras, width) if report.cameras else Text("no cameras", "dim"))
    if width < WIDE:
        parts += _drops(report.cameras)
    if report.viewers:
        parts += ["", _table(VIEWER_COLUMNS, report.viewers, width)]
    return Group(*parts)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Something drawn on a screen of limited height, which says so when not all of it fits."""

    body: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.body, options.update(height=None), pad=False)
        height = options.height or options.max_height
        more = len(lines) - height + 1
        if more > 1:
            lines = lines[: height - 1]
            lines.append([Segment(f"... {more} more lines: make the terminal taller", console.get_style("reverse"))])
        for line in lines:
            yield from line
            yield Segment.line()


def plain_lines(report: Report) -> Iterator[str]:
    """Tell a report in lines of `key=value`, each complete in itself: one of the daemon, one per camera and viewer."""
    at = report.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    daemon = report.daemon
    if daemon is None:
        yield _line(at, "daemon", url=report.url, problem=report.problem, answer_age_seconds=report.answer_age_seconds)
        return
    yield _line(
        at,
        "daemon",
        version=daemon.version,
        status=daemon.status,
        waiting_for=",".join(daemon.waiting_for) or None,
        uptime_seconds=daemon.uptime_seconds,
        cpu_percent=daemon.cpu_percent,
        resident_memory_bytes=daemon.resident_memory_bytes,
        threads=daemon.threads,
        viewers=daemon.viewers,
        models_loaded=daemon.models_loaded,
        answer_age_seconds=report.answer_age_seconds,
    )
    for camera in report.cameras:
        drops = camera.dropped_per_second_by_reason or {}
        yield _line(
            at,
            "camera",
            name=camera.name,
            state=camera.state,
            reason=camera.reason,
            fps=camera.fps,
            predicted_fps=camera.predicted_fps,
            frame_age_ms=camera.frame_age_ms,
            dropped_per_second=camera.dropped_per_second,
            **{f"dropped_{why}_per_second": number for why, number in drops.items()},
            dropped=camera.dropped,
            reconnects=camera.reconnects,
            viewers=camera.viewers,
            model=camera.model.id,
            model_state=camera.model.state,
            model_reason=camera.model.reason,
        )
    for viewer in report.viewers:
        yield _line(
            at,
            "viewer",
            id=viewer.id,
            kind=viewer.kind,
            camera=viewer.camera,
            client=viewer.client,
            sent_per_second=viewer.sent_per_second,
            sent=viewer.sent,
            skipped=viewer.skipped,
            quality=viewer.quality,
            last_write_age_ms=viewer.last_write_age_ms,
        )


def _line(at: str, what: str, **fields: object) -> str:
    said = " ".join(f"{key}={_value(value)}" for key, value in fields.items() if value is not None)
    return f"{at} {what} {said}"


def _value(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=\\') else text


def _problem(report: Report) -> RenderableType:
    last = f"; its last answer came {duration(report.answer_age_seconds)} ago" if report.answer_age_seconds else ""
    return Group(
        Text.assemble(("healthd", "bold"), f" at {report.url}"),
        Text(f"{report.problem}{last}", "bold red"),
    )


def _daemon(report: Report, daemon: Daemon, interval_seconds: float) -> RenderableType:
    first = Text.assemble(("healthd", "bold"), f" {daemon.version}  ", state(daemon.status))
    first.append(f"  up {duration(daemon.uptime_seconds)}  {report.url}")
    takes = [
        f"cpu {'-' if daemon.cpu_percent is None else f'{daemon.cpu_percent:.1f} %'}",
        f"memory {size(daemon.resident_memory_bytes)}",
        f"threads {count(daemon.threads)}",
        f"viewers {count(daemon.viewers)}",
        f"models {count(daemon.models_loaded)}",
    ]
    parts: list[RenderableType] = [first, Text("  ".join(takes))]
    if daemon.waiting_for:
        parts.append(Text(f"waiting for {', '.join(daemon.waiting_for)}", "cyan"))
    late = report.answer_age_seconds or 0.0
    if late > interval_seconds + LATE_SECONDS:
        parts.append(Text(f"no answer for {duration(late)}: what follows is that old", "bold yellow"))
    return Group(*parts)


def _troubles(cameras: list[Camera]) -> Iterator[Text]:
    """Say of every camera and model that does not do what it should, since when and why."""
    for camera in cameras:
        if camera.state != "live":
            why = f": {camera.reason}" if camera.reason else ""
            since = f" for {duration(camera.state_seconds)}"
            yield Text.assemble((camera.name, "bold"), "  ", state(camera.state), since, why)
        if camera.model.reason:
            yield Text.assemble(
                (camera.name, "bold"), "  model ", state(camera.model.state), f": {camera.model.reason}"
            )


def _drops(cameras: list[Camera]) -> Iterator[Text]:
    told = [f"{camera.name} {said}" for camera in cameras if (said := by_reason(camera))]
    if told:
        yield Text(f"drop/s  {'; '.join(told)}", "dim")


def _table(columns: tuple[Column, ...], rows: list[Camera] | list[Viewer], width: int) -> Table:
    shown = [column for column in columns if column.from_width <= width]
    table = Table(box=None, padding=(0, 2 if width >= 80 else 1, 0, 0), pad_edge=False, header_style="bold")
    for number, column in enumerate(shown):
        names = number == 0  # a long name takes a second line rather than hide which camera it is
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=not names, overflow="fold" if names else "ellipsis")
    for row in rows:
        cells = [column.cell(row) for column in shown]
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))  # a text is no markup
    return table
