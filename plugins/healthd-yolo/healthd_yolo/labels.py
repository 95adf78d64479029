"""Class names, as people write them in the configuration, turned into the class ids of a network."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from healthd.errors import SettingsError


def class_ids(labels: Mapping[int, str], names: Sequence[str] | None) -> frozenset[int] | None:
    """Return the ids of the named classes; None, for all of them, when no names are given.

    Case does not matter; a name that two classes share stands for both.

    Raises:
        SettingsError: the network has no class of that name; the message says which name comes nearest.
    """
    if names is None:
        return None
    by_name: dict[str, set[int]] = {}
    for class_id, label in labels.items():
        by_name.setdefault(label.casefold(), set()).add(class_id)
    chosen: set[int] = set()
    for name in names:
        found = by_name.get(name.casefold())
        if found is None:
            raise SettingsError(_unknown_class(name, labels))
        chosen |= found
    return frozenset(chosen)


def class_name(labels: Mapping[int, str], class_id: int) -> str:
    """Return the name of a class; a made-up one for an id that the network itself does not name."""
    return labels.get(class_id) or f"class{class_id}"


def _unknown_class(name: str, labels: Mapping[int, str]) -> str:
    near = get_close_matches(name.casefold(), [label.casefold() for label in labels.values()], n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"it knows: {_some(list(labels.values()))}"
    return f"classes: the model has no class `{name}`; {hint}"


def _some(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
