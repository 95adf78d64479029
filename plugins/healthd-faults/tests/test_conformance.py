"""As long as nothing is asked of it, the plugin keeps every rule of both contracts."""

from healthd.testing import suites
from healthd_faults.picture import numbered_picture


class TestFaults(suites.SourceConformance):
    plugin = "faults"
    options = {"fps": 20, "jpeg": True, "model": "faults"}  # noqa: RUF012
    fps = 20


class TestFaultsModel(suites.FamilyConformance):
    plugin = "faults"
    model = "faults"
    picture = numbered_picture(7, width=320, height=240)
