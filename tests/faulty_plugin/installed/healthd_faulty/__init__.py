"""Cameras and models that do everything wrong, for the tests of healthd."""
