"""Error kinds to statuses, codes and bodies: the one table, which clients read backwards."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite
from typing import Final

import orjson

from palio.core import errors


@dataclass(frozen=True, slots=True)
class Status:
    """How each door says one kind of failure; gRPC by name, so that no gRPC need be installed."""

    http: int
    grpc: str
    code: str
    sentence: str


_INTERNAL: Final = Status(
    500, "INTERNAL", "INTERNAL_ERROR", "Our own fault; quote the correlation id when reporting it."
)

STATUS: Final[dict[type[errors.PalioError], Status]] = {
    errors.BadRequest: Status(
        400,
        "INVALID_ARGUMENT",
        "BAD_REQUEST",
        "The request cannot be read: malformed, or a wrong shape or dtype.",
    ),
    errors.ValidationFailed: Status(
        422,
        "INVALID_ARGUMENT",
        "VALIDATION_ERROR",
        "The request is readable, but a value in it is not acceptable.",
    ),
    errors.RowRejected: Status(
        422,
        "INVALID_ARGUMENT",
        "VALIDATION_ERROR",
        "The model cannot run this row; its neighbours were not harmed.",
    ),
    errors.Unauthenticated: Status(
        401, "UNAUTHENTICATED", "UNAUTHENTICATED", "There is no key, or not a good one."
    ),
    errors.Forbidden: Status(
        403, "PERMISSION_DENIED", "FORBIDDEN", "The key is good but may not do this."
    ),
    errors.NotFound: Status(
        404, "NOT_FOUND", "NOT_FOUND", "There is no such route, model or version."
    ),
    errors.MethodNotAllowed: Status(
        405,
        "UNIMPLEMENTED",
        "METHOD_NOT_ALLOWED",
        "The route exists, but not for this verb; the header Allow names those it has.",
    ),
    errors.NotAcceptable: Status(
        406,
        "UNIMPLEMENTED",
        "NOT_ACCEPTABLE",
        "The answer has no form that the caller takes.",
    ),
    errors.UnsupportedMediaType: Status(
        415,
        "UNIMPLEMENTED",
        "UNSUPPORTED_MEDIA_TYPE",
        "This route cannot read this kind of body; `route` names one that can, if any.",
    ),
    errors.TooLarge: Status(
        413,
        "RESOURCE_EXHAUSTED",
        "TOO_LARGE",
        "The body, or a list in it, is over the limit given in `limit`.",
    ),
    errors.HeadersTooLarge: Status(
        431,
        "RESOURCE_EXHAUSTED",
        "HEADERS_TOO_LARGE",
        "The header block is over the limit given in `limit`.",
    ),
    errors.LengthRequired: Status(
        411,
        "RESOURCE_EXHAUSTED",
        "LENGTH_REQUIRED",
        "Say how long the body is, or send it in chunks.",
    ),
    errors.RequestTimeout: Status(
        408,
        "RESOURCE_EXHAUSTED",
        "REQUEST_TIMEOUT",
        "The request came too slowly; the connection is closed.",
    ),
    errors.Conflict: Status(
        409, "ABORTED", "CONFLICT", "A reload or another version is in the way."
    ),
    errors.Overloaded: Status(
        429,
        "RESOURCE_EXHAUSTED",
        "OVERLOADED",
        "The queue is full; try again after `retry_after` seconds.",
    ),
    errors.RateLimited: Status(
        429,
        "RESOURCE_EXHAUSTED",
        "RATE_LIMIT_EXCEEDED",
        "This caller's share is used up; try again after `retry_after` seconds.",
    ),
    errors.DeadlineInfeasible: Status(
        429,
        "RESOURCE_EXHAUSTED",
        "DEADLINE_INFEASIBLE",
        "Refused at once: the answer would come after the deadline.",
    ),
    errors.Cancelled: Status(
        499, "CANCELLED", "CANCELLED", "The caller left; seen in logs and metrics only."
    ),
    errors.NotReady: Status(
        503,
        "UNAVAILABLE",
        "NOT_READY",
        "Loading, draining or stopped; try again after `retry_after` seconds.",
    ),
    errors.CircuitOpen: Status(
        503,
        "UNAVAILABLE",
        "CIRCUIT_OPEN",
        "The upstream is being rested; try again after `retry_after` seconds.",
    ),
    errors.DeadlineExceeded: Status(
        504,
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        "Accepted, but the deadline passed before there was an answer.",
    ),
    errors.BackendFailed: Status(
        500, "INTERNAL", "BACKEND_FAILED", "The model itself raised, or answered nonsense."
    ),
    errors.InternalError: _INTERNAL,
    errors.UpstreamFailed: Status(
        502, "UNAVAILABLE", "UPSTREAM_FAILED", "A server behind the gateway failed."
    ),
    errors.UpstreamTimeout: Status(
        504,
        "DEADLINE_EXCEEDED",
        "UPSTREAM_TIMEOUT",
        "A server behind the gateway did not answer in time.",
    ),
}

# OpenAI's own words for the kinds of failure its clients tell apart.
_OPENAI_TYPE: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_LONGEST_RETRY_S: Final = 86_400


def status_of(error: BaseException) -> Status:
    """The row of the nearest listed ancestor; anything that is not ours is an internal error."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return _INTERNAL


def message_of(error: BaseException) -> str:
    """The sentence a caller may see: an internal error's own text never leaves the process."""
    return "something failed on our side" if status_of(error) is _INTERNAL else str(error)


def problem_body(error: BaseException, correlation_id: str) -> bytes:
    """The body of a failure: what happened in `error`, what that kind means in `detail`."""
    status = status_of(error)
    return orjson.dumps(
        {
            "error": message_of(error),
            "detail": status.sentence,
            "code": status.code,
            "correlation_id": correlation_id,
            **_details(error),
        }
    )


def openai_problem_body(error: BaseException, correlation_id: str) -> bytes:
    """The same failure in the form that OpenAI's clients raise from."""
    status = status_of(error)
    usual = "invalid_request_error" if status.http < 500 else "server_error"
    return orjson.dumps(
        {
            "error": {
                "message": message_of(error),
                "type": _OPENAI_TYPE.get(status.http, usual),
                "code": status.code,
                "param": _details(error).get("field"),
            },
            "correlation_id": correlation_id,
        }
    )


def problem_headers(error: BaseException) -> dict[str, str]:
    """The headers this failure must carry: Retry-After, Allow, WWW-Authenticate."""
    if isinstance(error, errors.MethodNotAllowed):
        return {"Allow": ", ".join(error.allowed)}
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="palio"'}
    wait_s = _details(error).get("retry_after")
    return {} if not isinstance(wait_s, int | float) else {"Retry-After": str(_whole(wait_s))}


def reference_table() -> str:
    """The table as Markdown, for `docs/reference/errors.md`."""
    lines = [
        "| code | kind | HTTP | gRPC | meaning |",
        "|---|---|---|---|---|",
        *(
            f"| `{row.code}` | `{kind.__name__}` | {row.http} | `{row.grpc}` | {row.sentence} |"
            for kind, row in STATUS.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _details(error: BaseException) -> errors.Details:
    if isinstance(error, errors.PalioError) and status_of(error) is not _INTERNAL:
        return error.details()
    return {}


def _whole(seconds: float) -> int:
    """Whole seconds, rounded up: a client that comes back too early is only refused again."""
    if not isfinite(seconds):
        return _LONGEST_RETRY_S
    return min(max(1, ceil(seconds)), _LONGEST_RETRY_S)
