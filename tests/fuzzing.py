"""How long is fuzzed: a few seconds in CI, as long as anybody likes by hand (see docs/security.md)."""

import os
from typing import Any

from hypothesis import HealthCheck, settings

MORE = int(os.environ.get("HEALTHD_FUZZ_EXAMPLES", "0"))


def fuzzed(examples: int) -> Any:
    """Return the settings of a property with so many examples, or with `HEALTHD_FUZZ_EXAMPLES`, if that is more."""
    return settings(
        max_examples=max(examples, MORE), deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
    )
