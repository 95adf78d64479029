"""Names of classes become ids; a name nobody has is refused with the nearest one."""

import pytest

from healthd.errors import SettingsError
from healthd_yolo.labels import class_ids, class_name

LABELS = {0: "person", 1: "bicycle", 2: "traffic light", 3: "person"}


def test_names_become_ids_whatever_their_case() -> None:
    assert class_ids(LABELS, ["Bicycle", "traffic light"]) == {1, 2}
    assert class_ids(LABELS, None) is None
    assert class_ids(LABELS, []) == frozenset()


def test_a_name_of_two_classes_stands_for_both() -> None:
    assert class_ids(LABELS, ["person"]) == {0, 3}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="no class `persn`; did you mean `person`"):
        class_ids(LABELS, ["persn"])
    with pytest.raises(SettingsError, match="it knows: person, bicycle"):
        class_ids(LABELS, ["zzz"])


def test_a_long_list_of_names_is_cut() -> None:
    with pytest.raises(SettingsError, match="and 88 more"):
        class_ids({number: f"thing{number}" for number in range(100)}, ["zzz"])


def test_an_id_without_a_name_gets_one() -> None:
    assert class_name(LABELS, 1) == "bicycle"
    assert class_name(LABELS, 7) == "class7"
