"""Whether the configuration file has changed, seen by looking at it: this works on every file system, NFS included."""

from typing import Literal

from healthd.settings_changes import ConfigFile, Fingerprint, fingerprint


class FileWatch:
    """Looks at the file now and then. A change counts once the file was the same at two looks in a row.

    So a file that is being written is not read half, and one that an editor replaces is not taken for gone. Links are
    followed: a ConfigMap that Kubernetes has swapped leads to another file.
    """

    def __init__(self, file: ConfigFile) -> None:
        self._file = file
        self._last = file.seen
        self._looks_without = 0

    def look(self) -> Literal["changed", "gone"] | None:
        """Tell what is new since the file was read last; `gone` once, and `changed` as long as nobody reads it."""
        now: Fingerprint | None = fingerprint(self._file.path)
        steady, self._last = now == self._last, now
        if now is None:
            self._looks_without += 1
            return "gone" if self._looks_without == 2 else None
        self._looks_without = 0
        return "changed" if steady and now != self._file.seen else None
