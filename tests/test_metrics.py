"""Metrics: one table, Prometheus text, nothing counted twice and nothing undocumented."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from healthd.metrics import READ_METRICS, Metrics, Sample, documented_names


def families(metrics: Metrics) -> dict[str, object]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def test_what_is_documented_is_what_is_there() -> None:
    metrics = Metrics()
    metrics.requests.labels("/healthz", "200").inc()
    for histogram in (metrics.predict_seconds, metrics.predict_start_age_seconds, metrics.encode_seconds):
        histogram.labels("gym").observe(0.01)
    metrics.read_from(lambda: [Sample(read.name, 1, dict.fromkeys(read.labels, "x")) for read in READ_METRICS])
    ours = {name for name in families(metrics) if name.startswith("healthd")}
    assert ours == {name.removesuffix("_total") for name in documented_names()}
    assert len(documented_names()) == len(set(documented_names()))


def test_names_say_their_unit_and_counters_that_they_count() -> None:
    for read in READ_METRICS:
        assert re.fullmatch(r"healthd_[a-z_]+", read.name)
        assert read.name.endswith("_total") is (read.kind == "counter"), read.name
        assert read.help.endswith("."), read.name


def test_values_are_read_when_somebody_scrapes_and_at_no_other_time() -> None:
    metrics, asked = Metrics(), []

    def source() -> list[Sample]:
        asked.append(1)
        return [Sample("healthd_ready", len(asked))]

    metrics.read_from(source)
    assert asked == []
    for scrape in (1, 2):
        assert f"healthd_ready {scrape}.0" in metrics.render().decode()


def test_a_label_may_hold_any_text() -> None:
    metrics = Metrics()
    odd = 'a "b" \\ c\nd é'
    metrics.read_from(lambda: [Sample("healthd_model_users", 1, {"model": odd})])
    (sample,) = families(metrics)["healthd_model_users"].samples  # type: ignore[attr-defined]
    assert sample.labels == {"model": odd}


def test_a_sample_that_nobody_has_described_is_a_bug() -> None:
    metrics = Metrics()
    metrics.read_from(lambda: [Sample("healthd_surprise", 1)])
    with pytest.raises(KeyError, match="healthd_surprise"):
        metrics.render()


def test_two_daemons_in_one_process_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.requests.labels("/healthz", "200").inc()
    assert b'route="/healthz"' in first.render()
    assert b'route="/healthz"' not in second.render()


def test_the_process_itself_is_measured_too() -> None:
    names = families(Metrics())
    assert "process_resident_memory_bytes" in names
    assert "python_info" in names
