"""Completes the OpenAPI document with what is true of every route: errors, scopes, headers, media types."""

from typing import Any

from litestar import Litestar, Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import HTTPRoute

from healthd.api.auth import needed_scope
from healthd.api.origins import PROBES

METHODS = {"get", "head", "post", "put", "patch", "delete", "options"}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}}}


class CompleteSchema(JsonRenderPlugin):
    """Renders the document as JSON. Lives as long as the application."""

    def __init__(self, *, path: str, keys_required: bool, hosts_guarded: bool) -> None:
        super().__init__(path=path)
        self._keys_required = keys_required
        self._hosts_guarded = hosts_guarded
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the completed document."""
        if self._rendered is None:
            complete(openapi_schema, request.app, keys_required=self._keys_required, hosts_guarded=self._hosts_guarded)
            self._rendered = self.render_json(request, openapi_schema)
        return self._rendered


def complete(document: dict[str, Any], app: Litestar, *, keys_required: bool, hosts_guarded: bool) -> None:
    """Complete the document in place."""
    options = {
        (route.path_format, str(method).lower()): handler.opt
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
    }
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
                if needed_scope(method.upper(), opt) == "admin":
                    forbidden.append("The key may only read; this needs the scope `admin`.")
            if forbidden:
                _add(operation, 403, " ".join(forbidden))
            _describe_bytes(operation, bodiless=method == "head")
            operation["responses"] = dict(sorted(operation["responses"].items()))


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
    if "requestBody" in operation or any(one["in"] == "query" for one in operation.get("parameters", [])):
        _add(operation, 422, "A parameter or a field is unknown or out of bounds; `extra` names each with its bound.")
    _add(operation, "default", "Any other error; 500 is a bug of healthd, a plugin or a model, and is logged.")
    for status in ("503", "429"):
        if responses.get(status, {}).get("content") == _ERROR:
            responses[status].setdefault("headers", {}).update(_RETRY_AFTER)


def _describe_bytes(operation: dict[str, Any], *, bodiless: bool) -> None:
    for status, response in operation["responses"].items():
        if bodiless or status in {"204", "304"}:
            response.pop("content", None)
        for media_type, content in response.get("content", {}).items():
            if not media_type.startswith(("application/json", "text/")):
                content["schema"] = {"type": "string", "format": "binary"}
