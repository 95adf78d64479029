"""The headers that answers carry by their kind: what browsers may do with a page, a picture, or anything else."""

from collections.abc import Sequence
from typing import Any

from healthd.settings import ServerSettings

RawHeaders = Sequence[tuple[bytes, bytes]]
ALL = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
PICTURE = (*ALL, (b"cross-origin-resource-policy", b"cross-origin"))
"""A page of another site may show a picture that its viewer may see; it cannot read it."""
_PICTURES = frozenset({"/api/v1/cameras/{name}/snapshot", "/api/v1/cameras/{name}/stream"})
_OWN = (b"cross-origin-resource-policy", b"same-origin")
_NOTHING = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
OTHER = (*ALL, _OWN, _NOTHING)
"""What is neither a page nor a picture, errors of the protocol included."""
_CSP = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors "
)


class AnswerHeaders:
    """Says which headers an answer gets. Lives as long as the application."""

    def __init__(self, settings: ServerSettings) -> None:
        policy = " ".join([_CSP + "'self'", *settings.embed_origins])
        self._other = OTHER
        self._page = (
            *ALL,
            _OWN,
            (b"content-security-policy", policy.encode()),
            (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
        )
        secure = (
            [(b"strict-transport-security", b"max-age=%d" % settings.hsts_seconds)] if settings.hsts_seconds else []
        )
        self._secure_other = (*self._other, *secure)
        self._secure_page = (*self._page, (b"cross-origin-opener-policy", b"same-origin"), *secure)

    def of(self, scope: Any, headers: RawHeaders) -> RawHeaders:
        """Return what an answer with these headers gets besides."""
        if scope.get("path_template") in _PICTURES:
            return PICTURE
        secure = scope["scheme"] in {"https", "wss"}
        if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
            return self._secure_page if secure else self._page
        return self._secure_other if secure else self._other
