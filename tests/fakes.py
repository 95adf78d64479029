"""The fakes that authors of plugins use as well; see `healthd.testing.fakes`."""

from healthd.testing.fakes import FakeSource, listed, make_runner, picture, prediction

__all__ = ["FakeSource", "listed", "make_runner", "picture", "prediction"]
