"""Whether a request whose head has been read may go on: framing, size, verb, kind of body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from palio.core.errors import (
    BadRequest,
    LengthRequired,
    MethodNotAllowed,
    PalioError,
    TooLarge,
    UnsupportedMediaType,
)
from palio.server.limits import DoorLimits
from palio.server.routes import Route
from palio.wire.ids import ID_HEADERS

# The only headers this door reads; the others are counted and forgotten.
READ_HEADERS: Final = frozenset(
    (
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"expect",
        b"host",
        b"inference-header-content-length",
        b"transfer-encoding",
        b"upgrade",
        *ID_HEADERS,
    )
)

_VERSIONS: Final = ("1.1", "1.0")
_JSON: Final = b"application/json"
# What curl says of any -d that nobody labelled; the body has to be JSON all the same.
_CURL: Final = b"application/x-www-form-urlencoded"
_AS_IS: Final = b"identity"


def framing_fault(http_version: str, headers: Mapping[bytes, bytes], hosts: int) -> str:
    """What makes it unsafe to say where this request ends, or whom it is for; empty if nothing.

    The parser has refused the rest: both a length and chunks, two lengths, folded or bare-LF
    lines, control characters.
    """
    if http_version not in _VERSIONS:
        return f"HTTP/{http_version} is not spoken here"
    if hosts > 1 or (hosts == 0 and http_version == "1.1"):
        return "there must be one Host header"
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (http_version == "1.0" or coding.lower() != b"chunked"):
        return "the only transfer coding is chunked, and only in HTTP/1.1"
    return ""


def size_fault(headers: Mapping[bytes, bytes], limits: DoorLimits) -> TooLarge | None:
    """A body that says it is over the limit, before any of it is read."""
    length = headers.get(b"content-length")
    if length is None or (size := int(length)) <= limits.max_body_bytes:
        return None
    return TooLarge("the body", size=size, limit=limits.max_body_bytes, unit="bytes")


def refusal_of(route: Route, method: str, headers: Mapping[bytes, bytes]) -> PalioError | None:
    """Why this route does not take such a request, if it does not."""
    if method not in route.methods:
        return MethodNotAllowed(method, list(route.methods))
    if method != "POST":
        return None
    if b"content-length" not in headers and b"transfer-encoding" not in headers:
        return LengthRequired("say how long the body is with Content-Length, or send it chunked")
    kind = headers.get(b"content-type")
    if kind is not None and kind not in (_JSON, _CURL) and not _is_json(kind):
        return UnsupportedMediaType(
            f"this route reads application/json, not {_shown(kind)}", route=route.name
        )
    if b"inference-header-content-length" in headers:
        return UnsupportedMediaType("binary tensors are not yet read; send data as JSON")
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.lower() != _AS_IS:
        return UnsupportedMediaType(f"bodies are not read in {_shown(coding)}; send it as it is")
    return None


def bad_framing(what: str) -> BadRequest:
    """The refusal for bytes that are not a request."""
    return BadRequest(f"not readable as HTTP: {what}")


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == _JSON or (media.startswith(b"application/") and media.endswith(b"+json"))


def _shown(value: bytes) -> str:
    return repr(value[:60].decode("latin-1"))
