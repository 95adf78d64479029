"""What can be wrong with a job, each with one answer at the edge."""

from healthd.errors import HealthdError


class JobsOffError(HealthdError):
    """Jobs are switched off here; the message says by which setting."""


class JobsUnavailableError(HealthdError):
    """The storage of the jobs cannot be used now; it may pass. The message says why."""


class StorageFullError(JobsUnavailableError):
    """There is no room left where the jobs are kept; the message says where."""


class TooManyJobsError(HealthdError):
    """As many jobs wait or run as may."""


class UnknownJobError(HealthdError):
    """There is no job of that id, or not any more."""


class MediaError(HealthdError):
    """It is nothing that a job could work on: not a video, not a zip, nothing in it, or broken."""


class MediaTooLargeError(MediaError):
    """It is larger than what is allowed."""


class PathRefusedError(HealthdError):
    """The path lies in no allowed directory, or is not there: the message does not tell which."""
