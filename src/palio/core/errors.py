"""Everything that can go wrong, by kind, without a word about any protocol.

PalioError
├── BadRequest             malformed: cannot be read, wrong shape or dtype
├── ValidationFailed       readable, but the values are not acceptable
│   └── RowRejected        one row of a batch cannot be run; its neighbours can
├── Unauthenticated        no key, or a bad one
├── Forbidden              a good key that may not do this
├── NotFound               no such route, model or version
├── MethodNotAllowed       the route exists but not for this verb
├── NotAcceptable          no form of the answer that the caller takes
├── UnsupportedMediaType   the bound task cannot read this kind of body
├── TooLarge               body, pixels, text or items over a limit
├── HeadersTooLarge        the header block is over its limit
├── LengthRequired         a body whose length is not said
├── RequestTimeout         the body came too slowly
├── Conflict               a reload or version is in the way
├── Overloaded             refused at the door: the queue is full
├── RateLimited            refused at the door: this caller's share is used up
├── DeadlineInfeasible     refused at the door: it could not be answered in time
├── Cancelled              the caller left
├── NotReady               known, but loading, draining or stopped
├── CircuitOpen            the upstream is being rested
├── DeadlineExceeded       accepted, but its time ran out
├── BackendFailed          the model itself raised, or answered nonsense
├── InternalError          our own fault
├── UpstreamFailed         a server behind the gateway failed
└── UpstreamTimeout        a server behind the gateway did not answer in time

Which status each kind becomes is the business of `palio.wire.problems`.
SettingsError stands apart: it stops the start and never reaches a caller.
"""

from __future__ import annotations

from typing import Final

Details = dict[str, str | int | float | list[str]]


class PalioError(Exception):
    """Root of every error this project raises on purpose."""

    def details(self) -> Details:
        """Facts a caller can act on, beyond the sentence: `field`, `limit`, `retry_after`."""
        return {}


class _FieldError(PalioError):
    """An error that can name the part of the request it is about."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field: Final = field

    def details(self) -> Details:
        return {} if self.field is None else {"field": self.field}


class BadRequest(_FieldError):
    """The caller sent something we cannot read: malformed, wrong shape or dtype."""


class ValidationFailed(_FieldError):
    """The request is readable but its values are not acceptable."""


class RowRejected(ValidationFailed):
    """A backend says one row of the batch caused the failure; the others would run without it."""


class Unauthenticated(PalioError):
    """There is no key, or not a good one."""


class Forbidden(PalioError):
    """The key is good but may not do this."""


class NotFound(PalioError):
    """There is no such route, model or version."""


class MethodNotAllowed(PalioError):
    """The route exists, but not for this verb."""

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"{method} is not allowed here; {', '.join(allowed)} is")
        self.allowed: Final = allowed

    def details(self) -> Details:
        return {"allowed": self.allowed}


class NotAcceptable(PalioError):
    """No form of the answer is among those the caller takes."""


class UnsupportedMediaType(PalioError):
    """The bound task cannot read this kind of body; `route` names one that can, if any."""

    def __init__(self, message: str, *, route: str | None = None) -> None:
        super().__init__(message)
        self.route: Final = route

    def details(self) -> Details:
        return {} if self.route is None else {"route": self.route}


class TooLarge(_FieldError):
    """A body, picture, text or list is over its limit."""

    def __init__(
        self, what: str, *, size: int, limit: int, unit: str = "", field: str | None = None
    ) -> None:
        unit = f" {unit}" if unit else ""
        super().__init__(f"{what} is {size}{unit}, over the limit of {limit}{unit}", field=field)
        self.limit: Final = limit

    def details(self) -> Details:
        return {**super().details(), "limit": self.limit}


class HeadersTooLarge(PalioError):
    """The header block is over its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the headers are over the limit of {limit} bytes")
        self.limit: Final = limit

    def details(self) -> Details:
        return {"limit": self.limit}


class LengthRequired(PalioError):
    """A body came without saying how long it is."""


class RequestTimeout(PalioError):
    """The request came too slowly to be read."""


class Conflict(PalioError):
    """A reload or another version is in the way."""


class Overloaded(PalioError):
    """The queue is full; trying again later may work."""

    def __init__(
        self, waiting: int, capacity: int, unit: str = "rows", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(f"the queue is full: {waiting} of {capacity} {unit} are waiting")
        self.waiting: Final = waiting
        self.capacity: Final = capacity
        self.retry_after_s: Final = retry_after_s

    def details(self) -> Details:
        return {
            "waiting": self.waiting,
            "limit": self.capacity,
            "retry_after": self.retry_after_s,
        }


class RateLimited(PalioError):
    """This caller's share is used up for now."""

    def __init__(self, limit: int, *, retry_after_s: float) -> None:
        super().__init__(f"the limit of {limit} is used up; try again in {retry_after_s:g} s")
        self.limit: Final = limit
        self.retry_after_s: Final = retry_after_s

    def details(self) -> Details:
        return {"limit": self.limit, "retry_after": self.retry_after_s}


class DeadlineInfeasible(PalioError):
    """Refused at once: by the time this could be answered, its deadline would have passed."""

    def __init__(self, predicted_wait_ms: float, *, retry_after_s: float) -> None:
        super().__init__(f"the answer would take about {predicted_wait_ms:.0f} ms, too late")
        self.predicted_wait_ms: Final = predicted_wait_ms
        self.retry_after_s: Final = retry_after_s

    def details(self) -> Details:
        return {"predicted_wait_ms": self.predicted_wait_ms, "retry_after": self.retry_after_s}


class Cancelled(PalioError):
    """The caller left before the answer came."""


class NotReady(PalioError):
    """Known, but it cannot answer yet, or any more."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s: Final = retry_after_s

    def details(self) -> Details:
        return {"retry_after": self.retry_after_s}


class CircuitOpen(PalioError):
    """The upstream failed too often and is being rested."""

    def __init__(self, upstream: str, *, retry_after_s: float) -> None:
        super().__init__(f"{upstream} is being rested after too many failures")
        self.retry_after_s: Final = retry_after_s

    def details(self) -> Details:
        return {"retry_after": self.retry_after_s}


class DeadlineExceeded(PalioError):
    """Accepted, but its time ran out before there was an answer."""


class BackendFailed(PalioError):
    """The model raised while running, or answered nonsense; the cause is chained."""


class InternalError(PalioError):
    """Our own fault; the cause is chained and logged, never shown."""


class UpstreamFailed(PalioError):
    """A server behind the gateway failed."""


class UpstreamTimeout(PalioError):
    """A server behind the gateway did not answer in time."""


class SettingsError(Exception):
    """A setting is unknown, unusable or would not take effect; the start stops with this."""
