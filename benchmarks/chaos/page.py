"""docs/reliability.md: a table for each group of faults, between two marks."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.chaos.faults import GROUPS, Fault, Outcome, all_faults

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- written by `make chaos`: begin -->", "<!-- written by `make chaos`: end -->"
HEAD = ("fault", "noticed in", "recovered in", "others affected", "lost", "log", "metric")


def line(fault: Fault, outcome: Outcome) -> str:
    """Say in a line what came of a fault."""
    if outcome.skipped:
        return f"skipped  {fault.name}: {outcome.skipped}"
    verdict = "EXCEEDED" if outcome.problems else "ok      "
    others = ", ".join(f"{name} {value:.0f}" for name, value in outcome.others.items())
    told = [
        f"noticed {_seconds(outcome.noticed)}, recovered {_seconds(outcome.recovered)}, {outcome.seconds:.0f} s in all",
        others,
        outcome.log,
        outcome.metric,
        *outcome.notes,
        *(f"!! {problem}" for problem in outcome.problems),
    ]
    return f"{verdict} {fault.name}: " + "\n         ".join(text for text in told if text)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _bounded(value: float | None, bound: float | None) -> str:
    return "-" if bound is None else f"{_seconds(value)} (of {bound:g})"


def _others(outcome: Outcome) -> str:
    """Say whether anybody else noticed, with the figures that say so."""
    seen = outcome.others
    if not seen:
        return "-"
    affected = [problem.removeprefix("others: ") for problem in outcome.problems if problem.startswith("others: ")]
    waited = seen["poll_p99_ms"] > 2 * seen["poll_p99_before_ms"]
    said = "**" + ", ".join(affected) + "**" if affected else "within bounds" if waited else "none"
    gap = f"longest gap {seen['gap_ms']:.0f} ms (before: {seen['gap_before_ms']:.0f})"
    if seen["frames_skipped"]:
        gap += f", {seen['frames_skipped']:.0f} of {seen['frames']:.0f} frames skipped"
    return f"{said}; {gap}, p99 of polls {seen['poll_p99_ms']:.0f} ms (before: {seen['poll_p99_before_ms']:.0f})"


def _lost(outcome: Outcome) -> str:
    seen, lost = outcome.others, outcome.lost
    if not seen:
        return "-"
    count = lost.get("witness_dropped", 0) + lost.get("unaccounted", 0)
    count += sum(seen[what] for what in ("polls_failed", "infers_failed"))
    said = f"**{count:.0f}**" if count else "nothing"
    return f"{said} of {seen['frames'] + seen['polls'] + seen['infers']:.0f}"


def row(fault: Fault, outcome: Outcome) -> tuple[str, ...]:
    """Return the cells of a table."""
    name = f"**{fault.title}**<br>{' '.join([fault.how, *outcome.notes])}"
    if outcome.skipped:
        return (name, f"skipped: {outcome.skipped}", *[""] * (len(HEAD) - 2))
    own = [problem for problem in outcome.problems if not problem.startswith("others: ")]
    name += "".join(f"<br>**exceeded: {problem}**" for problem in own)
    event, _, reason = outcome.log.partition(": ")
    log = f"`{event}`" + (f": {reason}" if reason else "") if event else f"- ({fault.unseen})"
    metric = f"`{outcome.metric}`" if outcome.metric else f"- ({fault.unseen})" if event else "-"
    return (
        name,
        _bounded(outcome.noticed, fault.noticed_within),
        _bounded(outcome.recovered, fault.recovered_within),
        _others(outcome),
        _lost(outcome),
        log,
        metric,
    )


def tables(outcomes: Mapping[str, Outcome]) -> str:
    """Return a table for each group."""
    text = []
    for group, title in GROUPS.items():
        rows = [HEAD, ("---",) * len(HEAD)]
        rows += [
            row(fault, outcomes[fault.name])
            for fault in all_faults().values()
            if fault.group == group and fault.name in outcomes
        ]
        cells = (" | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) for cells in rows)
        text.append(f"## {title}\n\n" + "\n".join(f"| {line} |" for line in cells))
    return "\n\n".join(text)


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """Say in a sentence what came of all."""
    skipped = sum(bool(outcome.skipped) for outcome in outcomes.values())
    exceeded = sum(bool(outcome.problems) for outcome in outcomes.values())
    return (
        f"Of {len(outcomes)} faults {len(outcomes) - skipped - exceeded} stayed within all bounds, {exceeded} did not, "
        f"{skipped} could not be done on this machine."
    )


def when(outcomes: Mapping[str, Outcome]) -> str:
    """Say when the rows were measured, the oldest first: they may be of several runs (`--keep`)."""
    times = sorted((outcome.measured, name) for name, outcome in outcomes.items() if outcome.measured)
    unknown = len(outcomes) - len(times)
    if not times:
        return "Measured at times that were not kept"
    (oldest, name), (newest, _) = times[0], times[-1]
    said = f"Measured on {oldest} UTC"
    if oldest != newest:
        said = f"Measured from {oldest} UTC (the oldest row: `{name}`) to {newest} UTC"
    return f"{said}, {unknown} of the rows at times that were not kept" if unknown else said


def write(outcomes: Mapping[str, Outcome], machine: Mapping[str, str], page: Path = PAGE) -> Path:
    """Write the tables into the page, between its two marks; return the page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    about = f"{machine['processor']}, {machine['cores']}; {machine['memory']}; {machine['system']}"
    said = f"{when(outcomes)}: {about}. {summary(outcomes)}"
    page.write_text(f"{before}{BEGIN}\n\n{said}\n\n{tables(outcomes)}\n\n{END}{after}", encoding="utf-8")
    return page
