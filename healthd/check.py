"""What can be found wrong before anything is started."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from healthd.cameras.factory import make_sources, models_of
from healthd.cameras.isolated import why_impossible
from healthd.daemon import load_installed_plugins
from healthd.errors import SettingsError
from healthd.models.catalog import wrong_models
from healthd.settings import Settings
from healthd.tls import Pair, expiry_hint

_NAMES = {"string": "text", "boolean": "true, false", "null": "absent", "object": "table"}


async def check_cameras(settings: Settings, *, on_hint: Callable[[str], None] = lambda _: None) -> list[str]:
    """Make the source of every enabled camera; return what is wrong, a line each. No camera and no model is opened.

    `on_hint` is told what is no reason not to start, among it the cameras whose plugins safe mode leaves out.
    """
    plugins = await load_installed_plugins(safe_mode=settings.server.safe_mode)
    for plugin in (*plugins.sources, *plugins.families):
        for note in plugin.notes:
            on_hint(f"plugin `{plugin.name}` ({plugin.distribution} {plugin.version}): at import {note}")
    skipped = plugins.sources.skipped
    enabled = {name: camera for name, camera in settings.cameras.items() if camera.enabled}
    for name, camera in enabled.items():
        if camera.plugin in skipped:
            on_hint(f"cameras.{name}: plugin `{camera.plugin}` is skipped: {skipped[camera.plugin].reason}")
    made = await make_sources(plugins.sources, {n: c for n, c in enabled.items() if c.plugin not in skipped})
    for name, source in made.items():
        impossible = None if isinstance(source, str) else why_impossible(enabled[name], source, plugins.sources)
        if impossible is not None:
            on_hint(f"cameras.{name}: no process of its own, but a thread: {impossible}")
    wrong = [f"cameras.{name}: {reason}" for name, reason in made.items() if isinstance(reason, str)]
    families = None if plugins.families.skipped else plugins.made.values()
    models = wrong_models(settings.models, families, watching=models_of(made).values())
    return [*wrong, *(f"{key}: {reason}" for key, reason in models)]


def check_tls(settings: Settings) -> tuple[list[str], list[str]]:
    """Load the certificate, if there is one; return what is wrong with it, and what is worth a hint."""
    cert, key = settings.server.tls_cert, settings.server.tls_key
    if cert is None or key is None:
        return [], []
    try:
        hint = expiry_hint(Pair(cert, key))
    except SettingsError as exc:
        return [str(exc)], []
    return [], [hint] if hint else []


async def list_plugins(*, safe_mode: bool = False) -> list[str]:
    """Return a line for every installed plugin and, below it, what it did at import and each of its settings.

    Those that are not loaded say why.
    """
    plugins = await load_installed_plugins(safe_mode=safe_mode)
    lines = []
    shown: dict[type[BaseModel], str] = {}
    for group in (plugins.sources, plugins.families):
        for plugin in group:
            begin = f"{plugin.name:<20} {plugin.group:<24} {plugin.distribution} {plugin.version}  "
            notes = [f"    note: at import {note}" for note in plugin.notes]
            if plugin.target is None:
                lines += [f"{begin}{plugin.state.upper()}: {plugin.reason}", *notes]
                continue
            lines += [f"{begin}loaded", *notes]
            model: type[BaseModel] = plugin.target.options_model
            lines += [f"    as {shown[model]}"] if model in shown else settings_lines(model)
            shown.setdefault(model, plugin.name)
    return lines or ["no plugin is installed: pip install healthd-yolo"]


def settings_lines(model: type[BaseModel]) -> list[str]:
    """Return a line for each setting of a plugin: name, type, default, description."""
    try:
        schema = model.model_json_schema()
        rows = [
            (
                name,
                " or ".join(dict.fromkeys(_types(setting, schema))) or "any",
                "required" if name in schema.get("required", ()) else _default(setting),
                " ".join(str(setting.get("description", "")).split()),
            )
            for name, setting in schema.get("properties", {}).items()
        ]
    except Exception as exc:  # noqa: BLE001  a plugin's own code runs here
        return [f"    its settings cannot be described: {type(exc).__name__}"]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    cells = [[f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)] for row in rows]
    return [f"    {'  '.join(row)}".rstrip() for row in cells]


def _default(setting: dict[str, Any]) -> str:
    if "default" not in setting:
        return "its own"  # a function makes it
    return "absent" if setting["default"] is None else json.dumps(setting["default"], ensure_ascii=False)


def _types(setting: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """Say what a setting may be, in the words of the documents; that it may be absent its default says."""
    choices = setting.get("anyOf") or setting.get("oneOf") or setting.get("allOf")
    if choices:
        for choice in choices:
            if choice.get("type") != "null":
                yield from _types(choice, schema)
    elif "$ref" in setting:
        yield from _types(schema.get("$defs", {}).get(setting["$ref"].rpartition("/")[2], {"type": "object"}), schema)
    elif "enum" in setting or "const" in setting:
        yield ", ".join(str(value) for value in setting.get("enum", [setting.get("const")]))
    elif setting.get("type") == "array":
        yield f"list of {' or '.join(_types(setting.get('items', {}), schema)) or 'any'}"
    elif "type" in setting:
        yield _NAMES.get(setting["type"], setting["type"]) + _bounds(setting)


def _bounds(setting: dict[str, Any]) -> str:
    if "minimum" in setting and "maximum" in setting:
        return f" {setting['minimum']} to {setting['maximum']}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {setting[key]}" for key, sign in signs.items() if key in setting]
    return " " + ", ".join(bounds) if bounds else ""
