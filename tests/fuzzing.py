"""How long is fuzzed: a few seconds in CI, as long as anybody likes by hand (see docs/security.md)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings

from healthd.redact import SCRUBBER

MORE = int(os.environ.get("HEALTHD_FUZZ_EXAMPLES", "0"))
SEED = int(os.environ.get("HEALTHD_FUZZ_SEED", "1"))
"""Of what hypothesis does not choose: the same in CI, so that a failure is nobody's bad luck; another by hand."""


def fuzzed(examples: int) -> Any:
    """Return the settings of a property with so many examples, or with `HEALTHD_FUZZ_EXAMPLES`, if that is more."""
    return settings(
        max_examples=max(examples, MORE), deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
    )


@contextmanager
def no_secrets_left() -> Iterator[None]:
    """Forget what was registered inside, so that one example does not hide the words of the next."""
    known, patterns = SCRUBBER._known, SCRUBBER._patterns
    SCRUBBER._known, SCRUBBER._patterns = {}, ()
    try:
        yield
    finally:
        SCRUBBER._known, SCRUBBER._patterns = known, patterns
