"""What a camera's process and the daemon say to each other. Addresses and options travel here, and nowhere else."""

from typing import Any, Literal, TypeAlias

import msgspec


class Build(msgspec.Struct, frozen=True, tag="build"):
    """Import the plugin and build the source again; answered by True."""

    plugin: str
    """The class, as `module:name`."""
    plugin_name: str
    name: str
    url: str | None
    options: dict[str, Any]
    open_timeout_seconds: float
    stall_timeout_seconds: float
    threads: int
    """`performance.threads`."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Open the camera of the source that was built; answered by `Opened`."""


class Opened(msgspec.Struct, frozen=True):
    """It is open."""

    two_steps: bool
    """Whether it is read in two steps: `Grab`, then `Take` if the image is wanted."""


class Grab(msgspec.Struct, frozen=True, tag="grab"):
    """Wait for the next image; answered by whether it is new enough to be shown."""


class Take(msgspec.Struct, frozen=True, tag="take"):
    """Deliver the image that was grabbed, or wait for the next one where reading is one step; answered by `Taken`."""

    place: tuple[int, int]
    """Offset and size of where its pixels or its bytes are to be written."""
    again: bool = False
    """The same image once more: the place before was too small."""


Kind: TypeAlias = Literal["none", "pixels", "jpeg", "too_small", "refused"]


class Info(msgspec.Struct, frozen=True, array_like=True):
    """`frames.StreamInfo`."""

    width: int | None
    height: int | None
    fps: float | None
    codec: str | None


class Taken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was delivered."""

    kind: Kind
    """none: too old. too_small: `size` bytes are needed. refused: the plugin returned no image; see `reason`."""
    at: float
    """When the image came, in seconds of the monotonic clock, which all processes of a machine share."""
    size: int = 0
    height: int = 0
    width: int = 0
    captured: bool = False
    """Whether the source gave a `CapturedImage`."""
    position_seconds: float | None = None
    info: Info | None = None
    reason: str = ""


Request: TypeAlias = Build | Open | Grab | Take


class Decode(msgspec.Struct, frozen=True, array_like=True):
    """Make the pixels of a JPEG; answered by whether it could be done. Asked beside reading, over a lane of its own."""

    jpeg: tuple[int, int]
    """Offset and size of where it lies."""
    orientation: int
    """How it is to be turned, as EXIF says it."""
    height: int
    width: int
    place: tuple[int, int]
    """Offset and size of where the pixels are to be written: shape (height, width, 3), uint8, BGR."""
