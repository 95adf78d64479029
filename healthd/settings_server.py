"""`[server]` and `[auth]`: where healthd listens, and who may call."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from healthd.key_hash import is_hashed, read_hash
from healthd.redact import Secret
from healthd.settings_base import Name, Seconds, Section

Scope: TypeAlias = Literal["read", "admin"]

SHORTEST_KEY = 16
_ORIGIN = r"^(\*|https?://[^/\s*]+)$"


def _origin(text: str) -> str:
    """Take an origin as browsers write it: a pattern would let in whoever gets a name that fits it."""
    if re.fullmatch(_ORIGIN, text) is None:
        raise PydanticCustomError(
            "origin", "must be a whole origin, such as https://panel.lan, without path or pattern; or * alone, for any"
        )
    return text


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise PydanticCustomError("network", "must be an address or a network, such as 10.42.0.0/16") from None
    return text


Origin = Annotated[str, AfterValidator(_origin), WithJsonSchema({"type": "string", "pattern": _ORIGIN})]


class ServerSettings(Section):
    """`[server]`: where healthd listens."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        pattern=r"^[^\s/\[\]]+$",
        description='Address to listen on. Anything but loopback needs an API key, or `auth.mode = "none"`.',
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes any free one and logs which.")
    root_path: str = Field(
        "",
        pattern=r"^(/[^\s?#]*[^/\s?#])?$",
        description="Path under which a reverse proxy shows healthd, e.g. `/healthd`; empty for the root.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        (), description="Origins of other sites whose pages may call the API, e.g. `https://panel.lan`; `*` for any."
    )
    allowed_hosts: tuple[Annotated[str, StringConstraints(pattern=r"^([^\s/:@*\[\]]+|\[[0-9A-Fa-f:.]+\])$")], ...] = (
        Field(
            (),
            description="Names, without port, by which healthd may be asked, besides those of loopback: `cams.lan`. "
            "They count where it listens on loopback and needs no key.",
        )
    )
    safe_mode: bool = Field(
        False,
        description="Load no plugins but those that the healthd project publishes, as `healthd run --safe-mode` does: "
        "the way out when another one hurts the daemon.",
    )
    embed_origins: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^/\s;,'\"]+$")], ...] = Field(
        (), description="Origins of other sites that may show the pages in a frame, e.g. `https://dash.lan:8123`."
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        description="Addresses or networks of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are "
        "believed, e.g. `10.42.0.0/16`.",
    )
    tls_cert: Path | None = Field(
        None, description="Certificate in PEM form, with those between it and the root; with it, healthd speaks TLS."
    )
    tls_key: Path | None = Field(None, description="Its private key in PEM form, without a password.")
    hsts_seconds: int = Field(
        0,
        ge=0,
        le=63_072_000,
        description="With TLS: for so long browsers shall ask this host by https alone, on all its ports; 0: not told.",
    )
    max_connections: int = Field(
        2048, ge=16, le=100_000, description="Open connections at most; one that waits for a request makes room."
    )
    max_connections_per_client: int = Field(
        512,
        ge=4,
        le=100_000,
        description="Open connections of one address (of IPv6: of one /64) at most; those of `trusted_proxies` have "
        "no such limit.",
    )
    header_timeout_seconds: Seconds = Field(
        10, description="How long the head of a request may take to arrive; the body of one that is no upload too."
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> "ServerSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            lacking = "tls_key" if self.tls_key is None else "tls_cert"
            raise PydanticCustomError("half_tls", "{lacking} is missing: TLS needs both", {"lacking": lacking})
        return self


class ApiKey(Section):
    """`[[auth.keys]]`: one key."""

    name: Name = Field(description="Who holds the key, for the log.")
    key: Secret = Field(
        description=f"The key itself, at least {SHORTEST_KEY} characters, or what `healthd auth hash` makes of it."
    )
    scope: Scope = Field("read", description="`read` may look, `admin` may change things too.")

    @field_validator("key")
    @classmethod
    def _long_enough(cls, key: Secret) -> Secret:
        if is_hashed(key.reveal()):
            try:
                read_hash(key.reveal())
            except ValueError as exc:
                raise PydanticCustomError("key_hash", "{reason}", {"reason": str(exc)}) from None
        if len(key.reveal()) < SHORTEST_KEY:
            raise PydanticCustomError("short_key", "must have at least {least} characters", {"least": SHORTEST_KEY})
        return key


class AuthSettings(Section):
    """`[auth]`: who may call the API."""

    mode: Literal["keys", "none"] | None = Field(
        None,
        description="`keys`: every call needs one; `none`: no call does, on any address. "
        "Absent: keys are needed if there are any.",
    )
    keys: tuple[ApiKey, ...] = Field((), description="The API keys.")
    session_hours: float = Field(
        24, gt=0, le=8760, allow_inf_nan=False, description="How long a browser stays logged in, in hours."
    )
    session_idle_hours: float = Field(
        0,
        ge=0,
        le=8760,
        allow_inf_nan=False,
        description="A browser that has asked for nothing for so many hours, and watches nothing, is logged out; "
        "0: it is not.",
    )

    @property
    def needs_key(self) -> bool:
        """Whether a call to the API needs a key."""
        return self.mode == "keys" or (self.mode is None and bool(self.keys))

    @field_validator("keys")
    @classmethod
    def _no_twins(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for what, values in (("name", [key.name for key in keys]), ("key", [key.key for key in keys])):
            if len(set(values)) < len(values):
                raise PydanticCustomError("twins", "two keys have the same {what}", {"what": what})
        return keys
