"""The conformance suite as pytest tests: inherit, name the plugin, done.

    from healthd.testing.suites import SourceConformance

    class TestSteps(SourceConformance):
        plugin = "steps"

What is not known before the test runs, such as the address of a server that a fixture starts, is said in a fixture
`case` of the class, in place of the attributes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from healthd.cameras.source import CameraSource
from healthd.frames import Image
from healthd.models.model import ModelFamily
from healthd.redact import SourceUrl
from healthd.testing.case import FamilyCase, SourceCase
from healthd.testing.family_rules import FAMILY_RULES
from healthd.testing.rules import Rule, judged
from healthd.testing.source_rules import SOURCE_RULES

CaseT = TypeVar("CaseT")


class SourceConformance:
    """Every rule of the contract of a camera source, a test each."""

    plugin: ClassVar[str | type[CameraSource]]
    """Name of the entry point, as in a configuration; or the class itself."""
    url: ClassVar[str | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    fps: ClassVar[float | None] = None
    """Images per second that it shall deliver with these settings; None: whatever it does."""
    gone_url: ClassVar[str | None] = None
    """An address of the same kind where no camera is; None: made from `url`."""
    models_directory: ClassVar[Path] = Path("models")

    @pytest.fixture
    def case(self) -> SourceCase:
        """Return what is tried; a class with a fixture of its own may say more."""
        return SourceCase(
            self.plugin,
            url=None if self.url is None else SourceUrl(self.url),
            options=self.options,
            fps=self.fps,
            gone_url=None if self.gone_url is None else SourceUrl(self.gone_url),
            models_directory=self.models_directory,
        )

    @pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.name)
    def test_contract(self, rule: Rule[SourceCase], case: SourceCase) -> None:
        """The source keeps one rule."""
        _told(rule, case)


class FamilyConformance:
    """Every rule of the contract of a family of models, a test each."""

    plugin: ClassVar[str | type[ModelFamily]]
    """Name of the entry point; or the class itself."""
    model: ClassVar[str] = ""
    """A path, or a name in `models_directory`."""
    options: ClassVar[Mapping[str, Any]] = {}
    picture: ClassVar[Image | None] = None
    """A picture in which the model finds something."""
    models_directory: ClassVar[Path] = Path("models")

    @pytest.fixture
    def case(self) -> FamilyCase:
        """Return what is tried; a class with a fixture of its own may say more."""
        return FamilyCase(
            self.plugin,
            model=self.model,
            options=self.options,
            picture=self.picture,
            models_directory=self.models_directory,
        )

    @pytest.mark.parametrize("rule", FAMILY_RULES, ids=lambda rule: rule.name)
    def test_contract(self, rule: Rule[FamilyCase], case: FamilyCase) -> None:
        """The family keeps one rule."""
        _told(rule, case)


def _told(rule: Rule[CaseT], case: CaseT) -> None:
    verdict = judged(rule, case)
    if verdict.outcome == "skipped":
        pytest.skip(verdict.reason)
    if verdict.outcome == "failed":
        told = f"{rule.promise}\n  what it does: {verdict.reason}\n  what to do: {verdict.remedy}"
        pytest.fail(f"{told}\n\n{verdict.trace}".rstrip(), pytrace=False)
