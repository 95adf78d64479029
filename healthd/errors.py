"""The errors of healthd, in two kinds: those that may pass by themselves, and those that will not."""

from typing import ClassVar


class HealthdError(Exception):
    """Base of every error that healthd raises on purpose."""

    crash: ClassVar[bool] = False
    """True: something broke that does not break by itself, a decoder's process for instance. It counts against the
    camera's `max_crashes` however long all was well before."""


class SettingsError(HealthdError):
    """A setting is wrong. It will not pass by itself: the camera is `failed` until somebody changes the setting."""


class PluginError(SettingsError):
    """A plugin is missing, cannot be imported, or does not keep the contract."""


class CameraError(HealthdError):
    """The camera cannot deliver now. It may pass: the runner tries again with backoff.

    The message is shown to people as the camera's `reason`; it must name no secret.
    """


class CameraCrashed(CameraError):  # noqa: N818  it did
    """The process in which the camera was read has ended by itself; the message says how."""

    crash = True


class BrokenPicture(CameraError):  # noqa: N818  the camera is well
    """One picture of a camera cannot be decoded. The next may be fine."""


class EndOfStream(CameraError):  # noqa: N818  the contract's word; it is the ordinary end of a recording
    """The camera has delivered its last image. A recording has ended; a live camera was lost."""


class ModelError(HealthdError):
    """The model cannot be loaded or cannot predict now. It may pass: the runner tries again with backoff."""


class ModelCrashed(ModelError):  # noqa: N818  it did
    """The process in which the model was has ended by itself; the message says how."""

    crash = True
    sent_in = False
    """A picture that somebody had sent was in it: no camera is to blame."""


class ModelLost(ModelError):  # noqa: N818  it is
    """The process in which the model was has ended, and this caller is not to blame.

    It came after that, or a picture that somebody had sent was in it too.
    """


class UnknownModelError(SettingsError):
    """No model of that name can be loaded here."""


class ParameterError(SettingsError):
    """What a caller asks of a model cannot be had from it; another caller's wish may."""


class LoadError(ModelError):
    """The model was asked for and cannot be loaded; the message says why."""


class StalledError(ModelError):
    """The model does not answer in time. Whoever uses it leaves it, and gets another one where it hangs."""

    sent_in = False
    """As of a `ModelCrashed`."""


class WornOutError(LoadError):
    """The model has hung too often to be risked again now; the message says what to do."""


class BusyError(ModelError):
    """No room, no turn or no memory for this caller now."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PredictError(ModelError):
    """The model failed on this picture; the message begins with the type of what it raised. It stays usable."""


class InUseError(HealthdError):
    """It cannot be taken away: somebody uses it; the message says who."""


class NotLoadedError(HealthdError):
    """A model is not loaded, and looking at it loads none."""


class NotHereError(HealthdError):
    """This daemon was not started in a way that allows it; the message says which would."""


class PictureError(HealthdError):
    """What was sent is no picture, is broken or cut short, or is of a kind that is not read; the message says which."""


class PictureTooLarge(PictureError):  # noqa: N818  the picture may be fine
    """The picture has more pixels, or more bytes, than are taken."""
