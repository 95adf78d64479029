"""Which models a request may name, and what stands behind each name.

A request may use what the configuration names (cameras, `models.preload`, `models.default`) and what lies in the models
directory. It names nothing else: a path that leaves the directory is as unknown as a file that is not there.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One model that a request may name."""

    model_id: str
    """As requests name it and as it is shown: holds no secret and no path of this machine."""
    family: str
    spec_id: str
    """As the family gets it."""
    cameras: tuple[str, ...] = ()
    """The configured cameras that use it."""
    pinned: bool = False
    """Whether the configuration has it loaded from the start and kept."""


class Catalog:
    """All models that a request may name. Lives as long as the daemon; thread-safe; its calls read the disk."""

    def find(self, model_id: str | None) -> Entry:
        """Return the model of that name; None: the default one.

        Raises:
            UnknownModelError: there is none, with the names that there are.
        """
        raise NotImplementedError

    def entries(self) -> Sequence[Entry]:
        """Return all models, those of the configuration first."""
        raise NotImplementedError
