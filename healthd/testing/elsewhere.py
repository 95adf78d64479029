"""Makes a plugin again in another process, from its name and settings alone: `python -m healthd.testing.elsewhere`.

What to make comes as JSON on standard input, so that no secret stands in the list of processes; what came of it leaves
as one line of JSON on standard output.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from healthd.testing.rules import Broken, NotTried

SECONDS = 60.0
"""A process, the imports of the plugin, and one image."""


def check_import(plugin: str | None, *, family: bool) -> None:
    """Raise `Broken` unless the import of a plugin, in another process, does nothing to others.

    In this process it may have been imported before, which Python does once. `plugin`: its `importable_name`.
    """
    if plugin is None:
        raise NotTried(IN_A_TEST)
    notes = ask_elsewhere({"import_only": True, "plugin": plugin, "family": family})["notes"]
    if notes:
        raise Broken(
            f"while it is imported, {'; '.join(notes)}",
            "let the module define and do nothing else: the rest belongs into camera(), model() or load()",
        )


def ask_elsewhere(wanted: dict[str, Any]) -> dict[str, Any]:
    """Make a plugin in another process; return what that process tells.

    Raises:
        Broken: it cannot be made there, or does not answer.
    """
    text = json.dumps({**wanted, "path": sys.path, "here": os.getpid()}, default=str)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as printed:
        # Not a pipe: a process that the plugin leaves behind would hold it open, and be waited for.
        try:
            done = subprocess.run(
                [sys.executable, "-m", "healthd.testing.elsewhere"],
                input=text,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise Broken(f"another process did not make it within {SECONDS:g} s", _REMEDY) from exc
        printed.seek(0)
        lines = printed.read().strip().splitlines()
    try:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        told = {"error": (lines or [f"exit code {done.returncode}"])[-1]}
    if "error" in told:
        raise Broken(f"in another process it cannot be made: {told['error']}", _REMEDY)
    return told


IN_A_TEST = "its class stands in a test; give the name of its entry point, or a class of a module"
_REMEDY = "make it from name, url and options alone: no state of the module, nothing that must be handed over"


def _make(wanted: dict[str, Any]) -> dict[str, Any]:
    from healthd.redact import SourceUrl  # noqa: PLC0415  after the path is set
    from healthd.testing.case import FamilyCase, SourceCase, import_notes  # noqa: PLC0415

    plugin: Any = wanted["plugin"]
    if wanted.get("import_only"):
        from healthd.logs import configure_logging  # noqa: PLC0415

        configure_logging("error", "json")  # as in the daemon: what is logged is not printed
        return {"notes": import_notes(plugin, family=wanted["family"])}
    if ":" in plugin:
        module, _, name = plugin.partition(":")
        plugin = getattr(importlib.import_module(module), name)
    directory = Path(wanted["models_directory"])
    if wanted["family"]:
        family = FamilyCase(plugin, wanted["model"], wanted["options"], models_directory=directory)
        return {"serves": family.family().serves(wanted["model"]), "options": family.spec().options.model_dump_json()}
    url = SourceUrl(wanted["url"]) if wanted["url"] is not None else None
    source = SourceCase(plugin, url, wanted["options"], models_directory=directory).make(url)
    from healthd.testing.session import opened  # noqa: PLC0415

    with opened(source) as session:
        shape = session.image().image.shape
    return {
        "options": source.options.model_dump_json(),
        "recording": source.recording,
        "model_id": source.model_id,
        "shape": shape,
    }


def _main() -> None:
    wanted = json.load(sys.stdin)
    sys.path[:] = wanted["path"]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the plugin prints is no answer
    try:
        told = _make(wanted)
    except Exception as exc:  # noqa: BLE001  told to who asked
        told = {"error": f"{type(exc).__name__}: {exc}"}
    print(json.dumps(told), file=out, flush=True)
    os._exit(0)  # threads that the plugin left behind keep nobody waiting


if __name__ == "__main__":
    _main()
