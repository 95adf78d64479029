"""The errors of healthd, in two kinds: those that may pass by themselves, and those that will not."""


class HealthdError(Exception):
    """Base of every error that healthd raises on purpose."""


class SettingsError(HealthdError):
    """A setting is wrong. It will not pass by itself: the camera is `failed` until somebody changes the setting."""


class PluginError(SettingsError):
    """A plugin is missing, cannot be imported, or does not keep the contract."""


class CameraError(HealthdError):
    """The camera cannot deliver now. It may pass: the runner tries again with backoff.

    The message is shown to people as the camera's `reason`; it must name no secret.
    """


class EndOfStream(CameraError):  # noqa: N818  the contract's word; it is the ordinary end of a recording
    """The camera has delivered its last image. A recording has ended; a live camera was lost."""


class ModelError(HealthdError):
    """The model cannot be loaded or cannot predict now. It may pass: the runner tries again with backoff."""
