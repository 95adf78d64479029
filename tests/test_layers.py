"""The house: imports point down only, vendors end in the plugins, and no file is two things."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "healthd"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli", "__main__"),
    ("cli_arguments",),
    ("check", "demo", "infer_command", "models_command", "auth_command", "plugin_check", "plugin_project", "top"),
    ("testing",),
    ("top_view",),
    ("top_report",),
    ("top_client",),
    ("daemon",),
    ("reload", "signals"),
    ("http_server", "http_sockets", "http_protocol", "http_door", "http_refusals", "http_unsent"),
    ("app",),
    ("api", "web"),
    ("jobs",),
    ("cameras",),
    ("models",),
    ("plugins", "plugin_watch"),
    (
        *(
            "settings",
            "settings_sections",
            "settings_base",
            "settings_server",
            "settings_env",
            "settings_file",
            "settings_references",
            "settings_tree",
        ),
        *("settings_options", "settings_view", "settings_changes", "config_watch", "loop_watch", "tls"),
        *("metrics", "logs", "native_log", "log_writer", "log_ring", "printed", "signal_actions"),
        *("children", "child_side", "child_logs", "child_events", "nursery"),
    ),
    (
        *("frames", "latest", "waiting", "worker", "crew", "redact", "scrubber", "cpus", "process", "clock", "errors"),
        *("key_hash", "clients", "utf8", "orphans"),
        *("pictures", "picture_headers", "bundle", "memory", "arguments", "channel", "endings", "shared_images"),
        "__init__",
    ),
)
"""From the top down. Whoever adds a file says here where it stands."""

HTTP = {"litestar", "uvicorn", "httptools", "starlette"}
VENDORS = {"ultralytics", "torch", "torchvision", "openvino", "onnx", "onnxruntime"} | {
    path.name for path in ROOT.glob("plugins/*/healthd_*")
}
FILES = sorted(HOUSE.rglob("*.py"))
HEART = LAYERS.index(("jobs",))
MOST_LINES = 400


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def layer_of(module: str) -> int:
    part = [*module.split("."), "__init__"][1]
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"{module} has no place in LAYERS: say where it stands")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, wherever in the file, with its line."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            if origin == "healthd":  # `from healthd import frames` imports a module, `__version__` does not
                yield from ((node.lineno, f"healthd.{alias.name}") for alias in node.names if _is_module(alias.name))
            else:
                yield node.lineno, origin


def _is_module(name: str) -> bool:
    return (HOUSE / f"{name}.py").exists() or (HOUSE / name).is_dir()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down_only(path: Path) -> None:
    here = layer_of(module_of(path))
    up = [
        f"{path.relative_to(ROOT)}:{line} imports {name}, which stands above it"
        for line, name in imports(path)
        if name.split(".")[0] == "healthd" and layer_of(name) < here
    ]
    assert not up, "\n".join(up)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_what_knows_of_http_stands_above_the_cameras_and_vendors_end_in_the_plugins(path: Path) -> None:
    forbidden = VENDORS | (HTTP if layer_of(module_of(path)) >= HEART else set())
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for line, name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert not found, "\n".join(found)


def test_the_heart_runs_without_http_and_vendors() -> None:
    """What is imported in truth, by whatever way, not what stands in the files alone."""
    heart = [module_of(path) for path in FILES if layer_of(module_of(path)) >= HEART]
    assert {"healthd.frames", "healthd.cameras.supervisor", "healthd.cameras.runner"} <= set(heart)
    code = (
        "import importlib, json, sys\n"
        f"for name in {heart!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not set(json.loads(done.stdout)) & (HTTP | VENDORS)


PRODUCT = [
    path
    for folder in (HOUSE, *sorted(ROOT.glob("plugins/*/healthd_*")))
    for path in sorted(folder.rglob("*"))
    if path.suffix in {".py", ".js", ".css", ".html"}
]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_two_things(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines: over {MOST_LINES} it is two things"


def test_the_layers_name_what_is_there() -> None:
    named = {name for layer in LAYERS for name in layer} - {"__init__"}
    there = {
        path.stem if path.is_file() else path.name for path in HOUSE.iterdir() if not path.name.startswith("__pycache")
    }
    assert named <= there
