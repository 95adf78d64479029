"""Distributions installed into a folder of their own: real modules, real metadata, found the real way."""

import sys
import textwrap
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Self

import pytest

from healthd.cameras.source import CameraSource
from healthd.daemon import check_source
from healthd.plugins import SOURCES, Plugin, Plugins, load_plugins

GOOD = """
    from contextlib import contextmanager
    from healthd.cameras.source import CameraSource

    class Source(CameraSource):
        contract = 1

        @contextmanager
        def camera(self):
            yield lambda: None
"""

IN_C = """
import ctypes
library = ctypes.CDLL(None)
library.signal.restype, library.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
library.signal({number}, ctypes.cast(library.abort, ctypes.c_void_p))
"""
"""Sets a handler of a signal below Python."""


def install(
    folder: Path,
    module: str,
    code: str,
    *,
    distribution: str | None = None,
    version: str = "1.2",
    group: str = SOURCES,
    **points: str,
) -> None:
    """Put a distribution of one module into a folder."""
    distribution = distribution or f"dist-{module}"
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [
        f"{name.replace('_', '-')} = {target}" for name, target in (points or {module: f"{module}:Source"}).items()
    ]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


def after(code: str, plugin: str = GOOD) -> str:
    """Return the code of a plugin that does something before it is a plugin."""
    return f"{textwrap.dedent(code)}\n{textwrap.dedent(plugin)}"


class Site:
    """The folder. What was imported from it is forgotten at the end of the block."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "site"
        self.folder.mkdir()
        monkeypatch.syspath_prepend(str(self.folder))
        self._known: set[str] = set()

    def __enter__(self) -> Self:
        self._known = set(sys.modules)
        return self

    def __exit__(self, *_: object) -> None:
        for name in set(sys.modules) - self._known:
            del sys.modules[name]

    def __call__(self, module: str, code: str, *, group: str = SOURCES, **named: str) -> list[EntryPoint]:
        """Install a distribution of one module; return all entry points of the group that are here now."""
        install(self.folder, module, code, group=group, **named)
        found = [point for one in distributions(path=[str(self.folder)]) for point in one.entry_points]
        return [point for point in found if point.group == group]


async def loaded(
    points: list[EntryPoint], *, timeout_seconds: float = 10.0, safe_mode: bool = False
) -> Plugins[type[CameraSource]]:
    """Load sources as the daemon does."""
    return await load_plugins(SOURCES, points, check=check_source, timeout_seconds=timeout_seconds, safe_mode=safe_mode)


async def loaded_one(points: list[EntryPoint], *, timeout_seconds: float = 10.0) -> Plugin[type[CameraSource]]:
    """Load the one that is there."""
    (plugin,) = await loaded(points, timeout_seconds=timeout_seconds)
    return plugin
