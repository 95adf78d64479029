"""Builds what loads and shares the models from the settings."""

from collections.abc import Mapping

from healthd.metrics import Metrics
from healthd.models.isolated import isolated
from healthd.models.manager import ModelManager
from healthd.models.model import ModelFamily
from healthd.models.room import Limits
from healthd.models.tally import Tally
from healthd.settings import Settings


def make_manager(
    settings: Settings, families: Mapping[str, ModelFamily], tally: Tally, metrics: Metrics | None = None
) -> ModelManager:
    """Build what loads and shares the models; it loads nothing yet."""
    wanted, metrics = settings.models, metrics or Metrics()
    if wanted.isolation == "process":
        families = isolated(
            families,
            lanes=wanted.concurrency,
            thread_budget=settings.performance.threads,
            load_timeout_seconds=wanted.load_timeout_seconds,
        )
    return ModelManager(
        families,
        directory=wanted.directory,
        threads=settings.performance.threads or None,
        cache_directory=wanted.cache_place,
        cache_max_bytes=wanted.cache_max_bytes,
        allow_pickle=wanted.allow_pickle,
        limits=Limits(wanted.max_loaded, wanted.memory_budget_bytes),
        concurrency=wanted.concurrency,
        batch_window_seconds=wanted.batch_window_ms / 1e3,
        idle_unload_seconds=wanted.idle_unload_seconds,
        load_timeout_seconds=wanted.load_timeout_seconds,
        failed_load_seconds=wanted.failed_load_seconds,
        room_timeout_seconds=wanted.queue_timeout_seconds,
        on_prediction=lambda shared, said: tally.add(shared.shown, shared.labels, said),
        on_batch=lambda shared, size: metrics.model_batch_size.labels(shared.shown).observe(size),
    )
