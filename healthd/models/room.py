"""How many models, and how much memory, there is room for; who must go to make some."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from healthd.errors import BusyError, LoadError
from healthd.models.model import ModelFamily, ModelSpec
from healthd.models.shared import SharedModel

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What all loaded models together may take."""

    max_loaded: int = 8
    """Models in memory at most."""
    memory_bytes: int = 0
    """Memory at most, by their own account; 0: no limit."""


def refuse_giant(limits: Limits, needed_bytes: int, model_id: str) -> None:
    """Raise LoadError for a model that alone takes more than all together may."""
    if limits.memory_bytes and needed_bytes > limits.memory_bytes:
        raise LoadError(
            f"{model_id} needs about {_mib(needed_bytes)} MiB and all models together may take"
            f" {_mib(limits.memory_bytes)} MiB: raise models.memory_budget_bytes, or take a smaller model"
        )


def victims(
    limits: Limits,
    *,
    present: Iterable[SharedModel],
    leaving: Iterable[SharedModel],
    room_for: int,
    wanted_bytes: int,
    model_id: str,
) -> list[SharedModel]:
    """Say which models must be unloaded before `room_for` more, of `wanted_bytes`, may be loaded.

    Those used longest ago go first. `leaving`: models that are being unloaded and still hold their memory.

    Raises:
        LoadError: there will never be room for it.
        BusyError: even without all that nobody uses there is no room now.
    """
    present, leaving = list(present), list(leaving)
    budget = limits.memory_bytes
    refuse_giant(limits, wanted_bytes, model_id)
    count = len(present) + len(leaving) + room_for
    held = sum(model.memory_bytes for model in (*present, *leaving)) + wanted_bytes
    going: list[SharedModel] = []
    idle = sorted((one for one in present if one.users == 0 and one.settled), key=lambda one: one.last_used)
    for model in idle:
        if count <= limits.max_loaded and not (budget and held > budget):
            break
        going.append(model)
        count -= 1
        held -= model.memory_bytes
    if count > limits.max_loaded:
        what = f"{limits.max_loaded} models may be loaded (models.max_loaded)"
    elif budget and held > budget:
        what = f"all models together may take {_mib(budget)} MiB (models.memory_budget_bytes)"
    else:
        return going
    raise BusyError(f"no room for {model_id}: {what}, and the others are in use", retry_after_seconds=5)


def estimate(family: ModelFamily, spec: ModelSpec) -> int:
    """Ask the family how much memory a model will hold; 0 when it cannot tell."""
    try:
        return max(0, int(family.estimate_bytes(spec) or 0))
    except Exception as exc:  # noqa: BLE001  a plugin's bug must not keep its model from being loaded
        log.warning("model_estimate_failed", model=spec.model_id, error=repr(exc))
        return 0


def _mib(number: int) -> int:
    return round(number / 2**20)
