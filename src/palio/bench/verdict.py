"""What a trial's numbers are worth. No verdict, no number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Best first; a trial has the worst that applies."""

    OK = "OK"
    SATURATED = (
        "SATURATED"  # the server could not keep up: a result, and latency has no steady value
    )
    UNSTEADY = "UNSTEADY"  # it never settled: numbers would depend on when one looked
    NOT_PARITY = "NOT-PARITY"  # it answered wrongly: how fast does not matter
    FAILED = "FAILED"  # too little was answered to say anything
    INVALID_CLIENT = "INVALID(client)"  # we measured ourselves


@dataclass(frozen=True, slots=True)
class Reason:
    """One check that did not pass: which, and in figures why."""

    check: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state and every reason for it; OK has none."""

    state: State
    reasons: tuple[Reason, ...] = ()

    @property
    def has_numbers(self) -> bool:
        """Whether latencies and rates of this trial may be shown as results."""
        return self.state in (State.OK, State.SATURATED)

    def line(self) -> str:
        """One line for people."""
        why = "; ".join(reason.sentence for reason in self.reasons)
        return f"{self.state}: {why}" if why else str(self.state)
