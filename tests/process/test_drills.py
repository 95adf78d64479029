"""The drills of healthd-faults in a real daemon: what it measures of each sets off the alert that the README names."""

import re
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import CHART, ROOT, run, tool
from tests.process.daemon import Daemon, until

pytestmark = pytest.mark.process
ALERTS = CHART / "files" / "alerts.yaml"
README = ROOT / "plugins" / "healthd-faults" / "README.md"
BOUNDS = {"stall_timeout_seconds": 1, "reconnect_max_seconds": 1, "frozen_after_seconds": 1}
SOONER = {"after_seconds": 0.5, "after_frames": 5}
"""The README's own take a minute; what they set off is the same."""

STATE = 'healthd_camera_state{{camera="drill-{}",state="{}"}}'
DROPPED = 'healthd_camera_frames_dropped_total{{camera="drill-{}",reason="failed"}}'
ENOUGH: dict[str, Callable[[Mapping[str, float]], bool]] = {
    "calm": lambda now: (
        now['healthd_camera_frames_predicted_total{camera="calm"}'] >= 5
        and now['healthd_camera_state{camera="calm",state="live"}'] == 1
    ),
    "drill-down": lambda now: now[STATE.format("down", "reconnecting")] == 1,
    "drill-frozen": lambda now: now[STATE.format("frozen", "frozen")] == 1,
    "drill-dropping": lambda now: now[DROPPED.format("dropping")] >= 2,
    "drill-late": lambda now: now['healthd_predict_seconds_count{camera="drill-late"}'] >= 1,
    "drill-missing": lambda now: now[DROPPED.format("missing")] >= 2 and now[STATE.format("missing", "live")] == 1,
    "drill-stuck": lambda now: now['healthd_camera_workers_stuck{camera="drill-stuck"}'] == 1,
    "drill-crashing": lambda now: (
        now['healthd_camera_process_ends_total{camera="drill-crashing",reason="crashed"}'] >= 3
    ),
}
"""When a drill has gone on for long enough, by what the gauges say and by how much the counters have grown."""


def drills() -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return the alert of each drill of the README, and its camera with shorter times."""
    text = README.read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL) if "drill-down" in block]
    cameras = {}
    for name, camera in tomllib.loads(block)["cameras"].items():
        for fault in [*camera["options"].get("faults", ()), *camera["options"].get("model_faults", ())]:
            fault.update({key: min(value, SOONER[key]) for key, value in fault.items() if key in SOONER})
        isolation = "process" if "crash" in str(camera) else "thread"
        cameras[name] = {"plugin": "faults", "isolation": isolation, **BOUNDS, **camera}
    return dict(re.findall(r"^\[cameras\.(\S+)\.options\] +# (\w+)", block, flags=re.MULTILINE)), cameras


def measured(daemon: Daemon, before: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return what the gauges of cameras say now, and by how much all else has grown."""
    text = daemon.get("/metrics").text
    kinds = set(re.findall(r"^# TYPE (\S+) gauge$", text, flags=re.MULTILINE))
    now = {name: value for name, value in daemon.samples(text).items() if 'camera="' in name}
    gauges = {name: value for name, value in now.items() if name.partition("{")[0] in kinds}
    return gauges, {name: value - before[name] for name, value in now.items() if name not in gauges}


def test_each_drill_of_the_readme_sets_off_its_alert_and_a_camera_that_works_sets_off_none(tmp_path: Path) -> None:
    try:
        version("healthd-faults")
    except PackageNotFoundError:
        pytest.skip("healthd-faults is not installed")
    promtool = tool("promtool")
    expected, cameras = drills()
    assert set(expected) == set(cameras) == set(ENOUGH) - {"calm"}
    cameras["calm"] = {"plugin": "faults", "isolation": "thread", "options": {"model": "faults"}}
    with Daemon(tmp_path, {"cameras": cameras}, plugins=[]) as daemon:
        before = daemon.samples()
        gauges, growths = measured(daemon, before)

        def waiting() -> list[str]:
            return [name for name, enough in ENOUGH.items() if not enough(gauges | growths)]

        def told() -> bool:
            nonlocal gauges, growths
            gauges, growths = measured(daemon, before)
            return not waiting()

        until(told, seconds=60, what=lambda: f"{waiting()}\n{daemon.story()}")
        assert daemon.stop()[0] == 0, daemon.story()

    hour = {name: f"{value:g}x60" for name, value in gauges.items()}
    hour |= {name: f"0+{value:g}x60" for name, value in growths.items()}  # each minute is as those seconds were
    firing = 'count(ALERTS{{alertname=~"{}",camera="{}",alertstate="firing"}}) or vector(0)'
    test = {
        "interval": "1m",
        "input_series": [
            {"series": name.replace("{", '{job="healthd",', 1), "values": values} for name, values in hour.items()
        ],
        "promql_expr_test": [
            {
                "expr": firing.format(alert, name),
                "eval_time": "45m",
                "exp_samples": [{"labels": "{}", "value": int(name != "calm")}],
            }
            for name, alert in [*expected.items(), ("calm", ".+")]
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}), encoding="utf-8")
    done = run(promtool, "test", "rules", file)
    assert done.returncode == 0, done.stderr + done.stdout
