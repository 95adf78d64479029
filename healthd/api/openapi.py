"""Completes the OpenAPI document with what is true of every route: errors, scopes, headers, media types."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from litestar import Litestar, Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import HTTPRoute

from healthd.api import schemas
from healthd.api.auth import LIMITED, needed_scope
from healthd.api.cameras import BOUNDS
from healthd.api.origins import PROBES
from healthd.worker import Worker

METHODS = {"get", "head", "post", "put", "patch", "delete", "options"}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}}
DESCRIPTION = """What holds for every path:

- Every error is JSON, `Error`, whatever the caller accepts. A request that is none of HTTP is answered 400.
- A path takes the methods that are described here, and `OPTIONS`. Any other, `HEAD` too, is answered 405; `Allow` names
  those that it takes.
- Parameters of the query that nobody knows are ignored.
- While healthd stops, a request that it cannot wait for is answered 503.
"""


class CompleteSchema(JsonRenderPlugin):
    """Renders the document as JSON. Lives as long as the application.

    Making it takes some tenths of a second, in which the event loop would serve nobody: it is made on a thread.
    """

    def __init__(self, *, path: str, variant: Callable[[], tuple[bool, bool]]) -> None:
        """`variant`: whether keys are required now, and whether the name asked for matters."""
        super().__init__(path=path)
        self._variant = variant
        self._making = asyncio.Lock()
        self._rendered: dict[tuple[bool, bool], bytes] = {}

    async def make(self, request: Request[Any, Any, Any]) -> None:
        """Make the document as it is now, if nobody has; whoever asks meanwhile waits for it."""
        async with self._making:
            if (variant := self._variant()) in self._rendered:
                return
            worker = Worker("openapi", patient=True)
            worker.start()
            try:
                self._rendered[variant] = await worker.call(lambda: self._made(request, variant), timeout=None)
            finally:
                worker.close()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Return the completed document."""
        variant = self._variant()
        return self._rendered.get(variant) or self._made(request, variant)

    def _made(self, request: Request[Any, Any, Any], variant: tuple[bool, bool]) -> bytes:
        plugin: Any = request.app.plugins.get("OpenAPIPlugin")
        document = copy.deepcopy(plugin.provide_openapi_schema())
        complete(document, request.app, keys_required=variant[0], hosts_guarded=variant[1])
        return self.render_json(request, document)


def complete(document: dict[str, Any], app: Litestar, *, keys_required: bool, hosts_guarded: bool) -> None:
    """Complete the document in place."""
    options = {
        (route.path_format, str(method).lower()): handler.opt
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
    }
    _complete_schemas(document["components"]["schemas"])
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            operation, opt = item[method], options[path, method]
            _describe(operation, opt.get("described", {}))
            _add_errors(operation)
            forbidden = [] if method in {"get", "head", "options"} else ["A page of another site asks."]
            if hosts_guarded and path not in PROBES:
                _add(operation, 421, "Asked by a name that is neither one of loopback nor in `server.allowed_hosts`.")
            if opt.get("open") or not keys_required:
                operation["security"] = []
            else:
                _add(operation, 401, "No API key, or one that nobody knows.")
                operation["responses"]["401"]["headers"] = _CHALLENGE
                _add(operation, 429, LIMITED)
                if needed_scope(method.upper(), opt) == "admin":
                    forbidden.append("The key may only read; this needs the scope `admin`.")
            if forbidden:
                _add(operation, 403, " ".join(forbidden))
            _tell_when(operation["responses"])
            _describe_bytes(operation, bodiless=method == "head")
            operation["responses"] = dict(sorted(operation["responses"].items()))


def _complete_schemas(known: dict[str, Any]) -> None:
    """Say what a body may not have, and its bounds; leave out the examples, which the framework draws by lot."""
    _drop_examples(known)
    known["Error"]["properties"]["status_code"] |= {"minimum": 400, "maximum": 599}
    for name, schema in known.items():
        shape = getattr(schemas, name, None)
        if shape is not None and shape.__struct_config__.forbid_unknown_fields:
            schema["additionalProperties"] = False
    for name, (least, most) in BOUNDS.items():
        known["CameraChange"]["properties"][name] |= {"minimum": least, "maximum": most}


def _drop_examples(value: object) -> None:
    if isinstance(value, dict):
        value.pop("examples", None)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop_examples(inner)


def _describe(operation: dict[str, Any], described: dict[str, Any]) -> None:
    """Add what a route says of itself where it reads its request by itself."""
    if "parameters" in described:
        operation["parameters"] = [*operation.get("parameters", []), *described["parameters"]]
    if "requestBody" in described:
        operation["requestBody"] = described["requestBody"]
    for status, more in described.get("responses", {}).items():
        for part, content in more.items():
            operation["responses"][status].setdefault(part, {}).update(content)


def _add(operation: dict[str, Any], status: int | str, description: str) -> None:
    operation["responses"].setdefault(str(status), {"description": description, "content": _ERROR})


def _add_errors(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if "Validation Exception" in str(responses.get("400")):  # Litestar's word for it; ours is 422
        del responses["400"]
    if "requestBody" in operation:
        _add(operation, 400, "The body is not what its `Content-Type` says.")
        _add(operation, 408, "The body did not arrive in time.")
        _add(operation, 413, "The body is too large.")
    if "requestBody" in operation or any(one["in"] == "query" for one in operation.get("parameters", [])):
        _add(operation, 422, "A parameter or a field is unknown or out of bounds; `extra` names each with its bound.")
    _add(operation, "default", "Any other error; 500 is a bug of healthd, a plugin or a model, and is logged.")


def _tell_when(responses: dict[str, Any]) -> None:
    """Say that a refusal for now tells when it is over."""
    for status in ("429", "503"):
        if responses.get(status, {}).get("content") == _ERROR:
            responses[status].setdefault("headers", {}).update(_RETRY_AFTER)


def _describe_bytes(operation: dict[str, Any], *, bodiless: bool) -> None:
    for status, response in operation["responses"].items():
        if bodiless or status in {"204", "304"}:
            response.pop("content", None)
        for media_type, content in response.get("content", {}).items():
            if not media_type.startswith(("application/json", "text/")):
                content["schema"] = {"type": "string", "format": "binary"}
