"""How many threads an engine gets."""

import os

from healthd.cpus import usable_cpus


def thread_limit(asked: int | None) -> int | None:
    """Return how many threads an engine should use; None, its own choice, when the whole machine is ours.

    An engine left alone counts physical cores, which is better than counting logical ones; but it does not see what
    the affinity and the control group of a container leave of them.
    """
    if asked is not None:
        return asked
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else None
