"""A camera and a family of models that misbehave on request, for healthd."""

__version__ = "0.1.0"
