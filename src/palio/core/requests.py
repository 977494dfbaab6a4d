"""What a client asks and gets, as values that no protocol owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from palio.core.errors import PalioError
from palio.core.tensors import Tensor

Parameter: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """One question to one model.

    `first_read_ns` is when its first byte was seen and `read_ns` when it was read in full, both
    on the engine's clock, so that the time spent in the door counts as part of the answer.
    `timeout_ns` counts from `first_read_ns`; None means the model's own deadline.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    priority: int = 0
    timeout_ns: int | None = None
    correlation_id: str = ""
    first_read_ns: int = 0
    read_ns: int = 0


@dataclass(slots=True)
class Timings:
    """Where one answer's time went: stamps on the engine's clock, each the end of a stage.

    The stages touch: read | tokenise | queue | compute | write, so they add up to the whole.
    """

    first_read_ns: int = 0
    read_ns: int = 0
    prepared_ns: int = 0
    taken_ns: int = 0
    computed_ns: int = 0
    written_ns: int = 0
    batch_rows: int = 0
    batch_id: int = 0

    def stages_ns(self) -> dict[str, int]:
        """Nanoseconds by stage name; a stage that was never reached is left out."""
        ends = (
            ("read", self.read_ns),
            ("tokenise", self.prepared_ns),
            ("queue", self.taken_ns),
            ("compute", self.computed_ns),
            ("write", self.written_ns),
        )
        stages: dict[str, int] = {}
        begun = self.first_read_ns
        for name, ended in ends:
            if ended:
                stages[name] = ended - begun
                begun = ended
        return stages


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """One answer: the outputs in the model's order, and where the time went.

    `tokens` counts what a text model read, padding not included; 0 for others.
    """

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    timings: Timings
    tokens: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


Outcome: TypeAlias = InferResponse | PalioError
WhenDone: TypeAlias = Callable[[Outcome], None]


class Pending(Protocol):
    """A question under way."""

    @property
    def timings(self) -> Timings:
        """What is known so far of where the time went."""
        ...

    def cancel(self) -> None:
        """The caller has left: drop what is still waiting; `when_done` will not be called."""
        ...
