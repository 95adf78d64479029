"""Make `values.schema.json` and the table in the chart's README from `values.yaml` and from the settings of healthd.

    make chart

Names, defaults and meanings stand in values.yaml alone, what the configuration may hold in `healthd/settings*.py`; a
test compares what lies in the chart with what comes out here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from healthd.settings import Settings

CHART = Path(__file__).parent / "healthd"
SECTIONS = tuple(Settings.model_fields)
BEGIN, END = "<!-- values: made by deploy/helm/generate.py -->\n", "<!-- end of values -->\n"

VARIABLE = "^[A-Za-z_][A-Za-z0-9_]*$"
QUANTITY = "^[0-9]+(\\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
UNNEEDED = {"format", "writeOnly", "title", "default"}
NAMED = {"properties", "$defs", "patternProperties"}
ONE_DEVICE = "^/dev/[^\\s]+$"
NUMBER = {"type": "integer"}
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
THEIRS: dict[str, Any] = {"type": "object"}
"""An object of Kubernetes, which Kubernetes itself checks."""


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these keys and no others."""
    found = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": list(required)} if required else found


def mapping(values: dict[str, Any] | None = None, *, keys: str = "") -> dict[str, Any]:
    """Return the schema of an object with names of the user's choice."""
    found: dict[str, Any] = {"type": "object", "additionalProperties": values or TEXT}
    return {**found, "propertyNames": {"pattern": keys}} if keys else found


def whole(least: int, most: int | None = None) -> dict[str, Any]:
    """Return the schema of a whole number."""
    return {**NUMBER, "minimum": least, **({} if most is None else {"maximum": most})}


AMOUNTS = mapping({"type": ["string", "integer", "number"], "pattern": QUANTITY})
MODES = ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod", "ReadOnlyMany"]
CLAIM: dict[str, dict[str, Any]] = {
    "accessModes": {"type": "array", "minItems": 1, "items": {"enum": MODES}},
    "size": {**TEXT, "pattern": QUANTITY},
}
CLOSER: dict[str, dict[str, Any]] = {
    "image.repository": {**TEXT, "minLength": 1},
    "image.digest": {**TEXT, "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
    "existingConfig.key": {**TEXT, "minLength": 1},
    "apiKey.secretKey": {**TEXT, "pattern": "^[A-Za-z0-9._-]+$"},
    "env": mapping(keys=VARIABLE),
    "secretEnv": mapping(closed(("secret", "key"), secret=TEXT, key=TEXT), keys=VARIABLE),
    **{f"persistence.{kind}.{key}": said for kind in ("models", "state") for key, said in CLAIM.items()},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": whole(1, 65535),
    "service.nodePort": whole(0, 65535),
    "ingress.tls": {"type": "array", "items": closed(hosts=TEXTS, secretName=TEXT)},
    "httpRoute.parentRefs": {
        "type": "array",
        "items": closed(("name",), name=TEXT, namespace=TEXT, sectionName=TEXT, port=NUMBER, group=TEXT, kind=TEXT),
    },
    "metrics.serviceMonitor.interval": {**TEXT, "pattern": "^[0-9]+(ms|s|m)$"},
    "networkPolicy.ingressFrom": {
        "type": "array",
        "items": closed(namespaceSelector=THEIRS, podSelector=THEIRS, ipBlock=THEIRS),
    },
    "networkPolicy.egress.cidrs": {"type": "array", "items": {**TEXT, "pattern": "^[0-9a-fA-F.:]+/[0-9]+$"}},
    "gpu.count": whole(1),
    "v4l2.devices": {"type": "array", "items": {**TEXT, "pattern": ONE_DEVICE}},
    "v4l2.count": whole(1),
    "v4l2.groups": {"type": "array", "items": whole(0)},
    "resources": closed(requests=AMOUNTS, limits=AMOUNTS, claims={"type": "array", "items": THEIRS}),
    "probes.startupSeconds": whole(0),
    "probes.livenessPeriodSeconds": whole(1),
    "probes.livenessFailureThreshold": whole(1),
    "probes.readinessPeriodSeconds": whole(1),
    "user.id": whole(1),
    "user.group": whole(1),
    "tolerations": {
        "type": "array",
        "items": closed(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT, tolerationSeconds=NUMBER),
    },
    "affinity": closed(nodeAffinity=THEIRS, podAffinity=THEIRS, podAntiAffinity=THEIRS),
    "extraVolumes": {"type": "array", "items": {**THEIRS, "required": ["name"]}},
    "extraVolumeMounts": {
        "type": "array",
        "items": closed(
            ("name", "mountPath"),
            **dict.fromkeys(("name", "mountPath", "subPath", "subPathExpr", "mountPropagation"), TEXT),
            readOnly={"type": "boolean"},
        ),
    },
}
"""What is known of a value beyond the type of its default."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart: where it stands, its default, what its comment says."""

    path: tuple[str, ...]
    default: Any
    meaning: str | None


def read_values(text: str) -> Iterator[Value]:
    """Yield every value of a values.yaml; a table is one when it is empty, or when a `# --` comment makes it one."""
    yield from _values(yaml.compose(text), text.splitlines(), ())


def _values(table: yaml.MappingNode, lines: list[str], above: tuple[str, ...]) -> Iterator[Value]:
    for key, value in table.value:
        path, meaning = (*above, key.value), _meaning(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and value.value and meaning is None:
            yield from _values(value, lines, path)
        else:
            yield Value(path, yaml.safe_load(yaml.serialize(value)), meaning)


def _meaning(lines: list[str], line: int) -> str | None:
    """Return what the `# --` comment right above a line says."""
    said: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        text = lines[line].lstrip().removeprefix("#").strip()
        said.insert(0, text.removeprefix("-- "))
        if text.startswith("-- "):
            return " ".join(said)
    return None


def table(values: list[Value]) -> str:
    """Return the values as a table in Markdown."""
    rows = [
        f"| `{'.'.join(value.path)}` | `{json.dumps(value.default, ensure_ascii=False)}` | {value.meaning} |"
        for value in values
    ]
    return "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows, ""])


def schema(values: list[Value]) -> dict[str, Any]:
    """Return the JSON Schema (draft 7, which Helm reads) of the values."""
    found = closed(("image", "server", "shutdown", "models", "jobs"))
    for value in values:
        if value.path[0] not in SECTIONS:
            _put(found, value)
    settings = _in_draft_7(Settings.model_json_schema())
    found["definitions"] = settings["$defs"]
    for name in SECTIONS:
        found["properties"][name] = settings["properties"][name]
    cameras = found["properties"]["cameras"]
    cameras["patternProperties"] = {"^[A-Za-z0-9_-]{1,64}$": next(iter(cameras["patternProperties"].values()))}
    cameras["additionalProperties"] = False
    del cameras["propertyNames"]
    found["properties"]["global"] = {**THEIRS, "description": "Set by Helm where this chart is a part of another."}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart healthd", **found}


def _put(found: dict[str, Any], value: Value) -> None:
    for part in value.path[:-1]:
        found = found["properties"].setdefault(part, closed())
    said = CLOSER.get(".".join(value.path)) or _type_of(value.default)
    found["properties"][value.path[-1]] = {"description": value.meaning, **said}


def _type_of(default: Any) -> dict[str, Any]:
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int):
        return whole(0)
    if isinstance(default, list):
        return TEXTS
    return mapping() if isinstance(default, dict) else TEXT


def _in_draft_7(node: Any) -> Any:
    """Return a schema of pydantic without what Helm's reader does not know or need.

    `X or null` becomes X with the type null beside its own: a reason that names a bound is clearer than "none of two".
    """
    if isinstance(node, list):
        return [_in_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("#/$defs/", "#/definitions/") if isinstance(node, str) else node
    if isinstance(node.get("anyOf"), list):
        said = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        if len(said) == 1 and "type" in said[0]:
            rest = {key: inner for key, inner in node.items() if key != "anyOf"}
            node = {**rest, **said[0], "type": [said[0]["type"], "null"]}
            if "enum" in node:
                node["enum"] = [*node["enum"], None]
    if "$ref" in node:  # in draft 7, what stands beside it counts for nothing
        return {"$ref": node["$ref"].replace("#/$defs/", "#/definitions/")}
    return {
        key: {name: _in_draft_7(inner) for name, inner in value.items()} if key in NAMED else _in_draft_7(value)
        for key, value in node.items()
        if key not in UNNEEDED
    }


def made() -> dict[str, str]:
    """Return the text of each file of the chart that is made here, by its name."""
    values = list(read_values((CHART / "values.yaml").read_text(encoding="utf-8")))
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    return {
        "values.schema.json": json.dumps(schema(values), indent=2) + "\n",
        "README.md": before + BEGIN + "\n" + table(values) + "\n" + END + rest.split(END)[1],
    }


if __name__ == "__main__":
    for name, text in made().items():
        (CHART / name).write_text(text, encoding="utf-8")
