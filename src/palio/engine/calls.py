"""A request inside the engine, and the places it takes in the queue."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from palio.core.batching import Ticket
from palio.core.requests import Timings

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Piece(Generic[In]):
    """Rows that must run together, ready for the model; a call is one or several of them."""

    payload: In
    rows: int = 1
    length: int = 1
    shape: Hashable = None
    size_bytes: int = 0


@dataclass(slots=True, eq=False)
class Place(Ticket[In]):
    """A piece's ticket: it knows its call and which part of it this is."""

    call: Call[In, Any] = field(kw_only=True)
    index: int = field(kw_only=True)


class Call(Generic[In, Out]):
    """A request with its waiting caller; settled exactly once, with outputs or an error.

    Lives on the event loop's thread alone. `missing` counts the pieces not answered yet.
    """

    __slots__ = (
        "_when_done",
        "deadline_ns",
        "error",
        "is_done",
        "missing",
        "outputs",
        "places",
        "tag",
        "timings",
    )  # fmt: skip

    def __init__(
        self,
        when_done: Callable[[Call[In, Out]], None],
        timings: Timings,
        deadline_ns: int | None = None,
        tag: str = "",
    ) -> None:
        self._when_done = when_done
        self.missing = 0
        self.timings = timings
        self.deadline_ns = deadline_ns
        self.tag = tag
        self.places: tuple[Place[In], ...] = ()
        self.outputs: list[Out | None] = []
        self.error: Exception | None = None
        self.is_done = False

    def seat(self, pieces: Sequence[Piece[In]], now_ns: int, priority: int) -> None:
        """Give every piece its place."""
        self.places = tuple(
            Place(
                piece.payload,
                piece.rows,
                now_ns,
                self.deadline_ns,
                piece.length,
                piece.shape,
                piece.size_bytes,
                priority,
                call=self,
                index=index,
            )
            for index, piece in enumerate(pieces)
        )
        self.outputs = [None] * len(pieces)
        self.missing = len(pieces)

    def take(self, index: int, output: Out) -> None:
        """One piece is answered; the last one settles the call."""
        if self.is_done:
            return
        self.outputs[index] = output
        self.missing -= 1
        if not self.missing:
            self.is_done = True
            self._when_done(self)

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless already settled."""
        if not self.is_done:
            self.error = error
            self.is_done = True
            self._when_done(self)

    def leave(self) -> None:
        """The caller has left; nothing that happens later is told to it."""
        self.is_done = True

    def results(self) -> list[Out]:
        """Every piece's output, in order; raises the call's error instead if it has one."""
        if self.error is not None:
            raise self.error
        return [output for output in self.outputs if output is not None]
