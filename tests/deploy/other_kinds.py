"""Schemas of the kinds that the chart makes and Kubernetes itself does not have: what their definitions allow.

Closed, and no wider than what the chart writes: a key that is not here is a mistake, or is to be looked up first in
the definitions of the Gateway API (v1) or of the Prometheus Operator (v1).
"""

from typing import Any

LABEL = {"type": "string", "pattern": r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
NAME = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {
    "type": "string",
    "pattern": r"^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
}


def closed(*needed: str, **properties: object) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*needed], "additionalProperties": False}


def several(item: object, most: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


def kind(name: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"type": "object", "additionalProperties": LABEL}
    metadata = closed("name", name=NAME, labels=labels, annotations=TEXTS)
    needed = ("apiVersion", "kind", "metadata", "spec")
    return closed(*needed, apiVersion={"const": version}, kind={"const": name}, metadata=metadata, spec=spec)


HTTP_ROUTE = kind(
    "HTTPRoute",
    "gateway.networking.k8s.io/v1",
    closed(
        parentRefs=several(
            closed(
                "name",
                group={"type": "string"},
                kind={"type": "string"},
                namespace=NAME,
                name=NAME,
                sectionName=NAME,
                port=PORT,
            ),
            32,
        ),
        hostnames=several({"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}, 16),
        rules=several(
            closed(
                matches=several(
                    closed(
                        path=closed(
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value={"type": "string", "maxLength": 1024, "pattern": "^/"},
                        )
                    ),
                    64,
                ),
                backendRefs=several(closed("name", "port", name=NAME, port=PORT), 16),
            ),
            16,
        ),
    ),
)
SERVICE_MONITOR = kind(
    "ServiceMonitor",
    "monitoring.coreos.com/v1",
    closed(
        "endpoints",
        "selector",
        selector=closed(matchLabels={"type": "object", "additionalProperties": LABEL}),
        endpoints=several(
            closed(
                port={"type": "string"},
                path={"type": "string"},
                interval=DURATION,
                scheme={"enum": ["http", "https"]},
                tlsConfig=closed(insecureSkipVerify={"type": "boolean"}),
            ),
            1,
        ),
    ),
)
PROMETHEUS_RULE = kind(
    "PrometheusRule",
    "monitoring.coreos.com/v1",
    closed(
        groups=several(
            closed(
                "name",
                name={"type": "string", "minLength": 1},
                rules=several(
                    closed(
                        *("alert", "expr"),
                        alert={"type": "string"},
                        expr={"type": "string"},
                        **{"for": {**DURATION, "minLength": 1}},
                        labels=TEXTS,
                        annotations=TEXTS,
                    ),
                    100,
                ),
            ),
            1,
        )
    ),
)
OTHERS = {"HTTPRoute": HTTP_ROUTE, "ServiceMonitor": SERVICE_MONITOR, "PrometheusRule": PROMETHEUS_RULE}
