"""Alerts and dashboard ask for metrics that exist, and an alert comes when it should and not on an idle night."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from healthd.metrics import Metrics
from tests.api.house import open_house
from tests.deploy.tools import CHART, case, one, run, tool

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
NAME = r"\b(?:healthd|process|python)_[a-z_]+"


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


async def test_every_metric_that_is_asked_for_is_there_with_the_labels_asked_for() -> None:
    async with open_house(cameras={"gym": {}}) as house:
        text = (await house.get("/metrics")).text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE))
    histograms = {name for name, kind in kinds.items() if kind == "histogram"}
    known = set(kinds) | {f"{name}_bucket" for name in histograms}
    documented = (CHART.parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    asked = set()
    for expression in [*(rule["expr"] for rule in alerts()), *queries()]:
        found = set(re.findall(NAME, expression))
        assert found <= known | {"up"}, expression
        asked |= found
        for name, labels in re.findall(r"(healthd_[a-z_]+)\{([^}]*)\}", expression):
            row = next(line for line in documented.splitlines() if f"`{name.removesuffix('_bucket')}`" in line)
            for label in re.findall(r"([a-z_]+)(?:=~|=|!=)", labels):
                assert label == "job" or f"`{label}`" in row, f"{name} has no label {label}"
    assert len(asked) > 25


def test_promtool_reads_the_rules_as_they_lie_there_and_as_the_chart_makes_them(tmp_path: Path) -> None:
    made = tmp_path / "rule.yaml"
    rule = one(case("full"), "PrometheusRule")["spec"]
    made.write_text(yaml.safe_dump(rule), encoding="utf-8")
    done = run(tool("promtool"), "check", "rules", ALERTS, made)
    assert done.returncode == 0, done.stderr
    assert [item["alert"] for item in rule["groups"][0]["rules"]] == [item["alert"] for item in alerts()]
    for item in rule["groups"][0]["rules"]:
        assert 'job="cams",namespace="home"' in item["expr"], "the ServiceMonitor gives the Service's name as job"


def test_the_dashboard_is_what_grafana_reads() -> None:
    given = one({k: v for k, v in case("full").items() if k[1] == "cams-dashboard"}, "ConfigMap")
    assert given["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(given["data"]["healthd.json"])
    assert dashboard == json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 15
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


# -- when they come ----------------------------------------------------------------------------------------------------

STATES = ("starting", "live", "stalled", "reconnecting", "frozen", "ended", "failed", "paused", "stopped")


def histograms(name: str, *, age: float, took: float) -> dict[str, str]:
    """Return 150 predictions a minute in the buckets that the daemon has: all of frames that old, all that slow."""
    metrics = Metrics()
    metrics.predict_start_age_seconds.labels(name).observe(age)
    metrics.predict_seconds.labels(name).observe(took)
    return {
        f'{sample.name}{{job="healthd",camera="{name}",le="{sample.labels["le"]}"}}': f"0+{150 * int(sample.value)}x60"
        for family in (*metrics.predict_start_age_seconds.collect(), *metrics.predict_seconds.collect())
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }


def camera(
    name: str,
    state: str,
    *,
    predicted: str = "0+150x60",
    dropped: tuple[str, str] = ("replaced", "0+300x60"),
    idle: int = 0,
    stuck: int = 0,
    age: float = 0.07,
    took: float = 0.05,
) -> dict[str, str]:
    """Series of a camera over an hour, a minute apart: 15 frames and 2.5 predictions a second unless said otherwise."""
    own = f'job="healthd",camera="{name}"'
    series = {f'healthd_camera_state{{{own},state="{other}"}}': f"{int(other == state)}x60" for other in STATES}
    series[f"healthd_camera_frames_read_total{{{own}}}"] = "0+900x60"
    series[f"healthd_camera_frames_predicted_total{{{own}}}"] = predicted
    series[f'healthd_camera_frames_dropped_total{{{own},reason="{dropped[0]}"}}'] = dropped[1]
    series[f"healthd_camera_idle{{{own}}}"] = f"{idle}x60"
    series[f"healthd_camera_workers_stuck{{{own}}}"] = f"{stuck}x60"
    return series | histograms(name, age=age, took=took)


UP = {'up{job="healthd"}': "1x60", 'process_start_time_seconds{job="healthd"}': "1000x60"}
STILL = ("still", "0+900x60")
ENDS = 'healthd_camera_process_ends_total{{job="healthd",camera="gym",reason="{}"}}'
UNLOADS = 'healthd_model_unloads_total{{job="healthd",reason="{}"}}'
QUIET = {
    "all is well": UP | camera("gym", "live"),
    "nothing moves, and the model never looks": UP | camera("hall", "live", predicted="0x60", dropped=STILL, idle=1),
    "nothing moves, and the model looks every 10 s": UP
    | camera("hall", "live", predicted="0+6x60", dropped=STILL, idle=1),
    "a slow rate that was asked for": UP | camera("gym", "live", predicted="0+6x60", dropped=("replaced", "0+894x60")),
    "a model of a second, and frames that wait for it": UP | camera("gym", "live", age=0.9, took=0.9),
    "frames that are a second old": UP | camera("gym", "live", age=1.2, took=0.1),
    "nobody analyses it": UP | camera("door", "live", predicted="0x60", dropped=("no_model", "0+900x60")),
    "somebody paused it": UP | camera("gym", "paused", predicted="0x60"),
    "a decoder crashed twice, and hung often": UP
    | camera("gym", "live")
    | {ENDS.format("crashed"): "0x35 1 2x20", ENDS.format("stalled"): "0+1x60"},
    "models come and go": UP
    | camera("gym", "live")
    | {UNLOADS.format("crashed"): "0x35 1 2x20", UNLOADS.format("room"): "0+1x60"},
    "it was started anew four times": {**UP, 'process_start_time_seconds{job="healthd"}': "0x10 1x5 2x5 3x5 4x40"},
    "a recording is over": UP | camera("replay", "ended", predicted="0x60"),
}
LOUD: dict[str, tuple[str, dict[str, str]]] = {
    "failed": ("HealthdCameraDown", UP | camera("gym", "failed", predicted="0x60")),
    "frozen": ("HealthdCameraFrozen", UP | camera("gym", "frozen")),
    "a model that fails on every fifth frame, seldom asked": (
        "HealthdCameraDropping",
        UP | camera("gym", "live", predicted="0+8x60", dropped=("failed", "0+2x60")),
    ),
    "a network that stumbles": ("HealthdCameraDropping", UP | camera("gym", "live", dropped=("backlog", "0+150x60"))),
    "a model that hangs": ("HealthdPredictionsMissing", UP | camera("gym", "live", predicted="0x60")),
    "a model of 4 s": ("HealthdPredictionsLate", UP | camera("gym", "live", took=4)),
    "old frames, a fast model": ("HealthdPredictionsLate", UP | camera("gym", "live", age=3, took=0.1)),
    "frames half a minute old": ("HealthdPredictionsLate", UP | camera("gym", "live", age=30, took=0.5)),
    "a thread that hangs in a driver": ("HealthdThreadsStuck", UP | camera("gym", "live", stuck=1)),
    "down and up and down": (
        "HealthdCameraDown",
        {
            **UP,
            **camera("gym", "none", predicted="0x60"),
            'healthd_camera_state{job="healthd",camera="gym",state="stalled"}': "1 0 " * 30,
            'healthd_camera_state{job="healthd",camera="gym",state="reconnecting"}': "0 1 " * 30,
        },
    ),
    "it starts again and again": ("HealthdCrashLoop", {**UP, 'process_start_time_seconds{job="healthd"}': "0+120x60"}),
    "a mistake in the changed configuration": (
        "HealthdConfigRefused",
        {**UP, 'healthd_config_reloads_total{job="healthd",outcome="failed"}': "0x35 1x25"},
    ),
    "a decoder that crashes every few minutes": (
        "HealthdCameraCrashing",
        UP | camera("gym", "live") | {ENDS.format("crashed"): "0x30 0 1 1 1 2 2 2 3 3 3 4 4 4 5 5 5x10"},
    ),
    "a runtime that crashes every few minutes": (
        "HealthdModelCrashing",
        UP | camera("gym", "live") | {UNLOADS.format("crashed"): "0x30 0 1 1 1 2 2 2 3 3 3 4 4 4 5 5 5x10"},
    ),
    "it is gone": ("HealthdDown", {'up{job="healthd"}': "0x60"}),
}


def test_alerts_come_when_they_should_and_not_on_an_idle_night(tmp_path: Path) -> None:
    names = [rule["alert"] for rule in alerts()]
    assert {name for name, _ in LOUD.values()} == set(names)
    tests = [
        {
            "name": what,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                    "eval_time": "45m",
                    "exp_samples": [{"labels": "{}", "value": int(name == expected)}],
                }
                for name in names
            ],
        }
        for what, (expected, series) in [*((what, (None, series)) for what, series in QUIET.items()), *LOUD.items()]
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}), encoding="utf-8")
    done = run(tool("promtool"), "test", "rules", file)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("lives_seconds", [15, 60, 120])
def test_a_crash_loop_is_told_without_a_break_at_the_pace_of_the_kubelet(lives_seconds: int, tmp_path: Path) -> None:
    """It waits five minutes after each end, and Prometheus sees a run only while it lasts."""
    period = 300 + lives_seconds
    scrapes = range(0, 3 * 3600, 15)
    runs = [(at // period, at % period < lives_seconds) for at in scrapes]
    series = {
        'up{job="healthd"}': " ".join(str(int(lives)) for _, lives in runs),
        'process_start_time_seconds{job="healthd"}': " ".join(
            str(1000 + run * period) if lives else "stale" for run, lives in runs
        ),
    }
    firing = 'count(ALERTS{alertname="HealthdCrashLoop",alertstate="firing"}) or vector(0)'
    expected = [{"labels": "{}", "value": 1}]
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": f"min_over_time(({firing})[2h:15s])", "eval_time": "175m", "exp_samples": expected}
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [test]}), encoding="utf-8"
    )
    done = run(tool("promtool"), "test", "rules", file)
    assert done.returncode == 0, done.stderr + done.stdout
