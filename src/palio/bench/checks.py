"""What a trial's numbers are worth: every check, in figures, and the one verdict they come to.

First the client is asked about itself. Only then may anything be said about the server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from palio.bench.attempts import NEVER, Attempts, Bools, Fault
from palio.bench.load import Load, OpenLoad
from palio.bench.overload import TURNED_AWAY, overload, settled_ns
from palio.bench.percentiles import percentile
from palio.bench.steady import Steadiness, steadiness
from palio.bench.verdict import Reason, State, Verdict

LAG_MS: Final = 0.5
LAG_SHARE_OF_SLO: Final = 0.02
ACHIEVED: Final = 0.995
CPU_SHARE: Final = 0.70
LITTLE: Final = 0.03
CLOCK_JUMP_MS: Final = 20.0
ANSWERED: Final = 0.01  # less is almost nothing
BROKEN: Final = 0.5  # more than this failed for other reasons than load


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFacts:
    """All that is known of a trial when it is judged.

    attempts: every row, warm-up and all. from_ns, until_ns: what is judged, by intended time.
    client_cpu_share: of the client's one core. in_flight_mean: how many requests were on average
    sent and unanswered from `from_ns` to `until_ns`, as the driver counted them while it ran and
    not as the rows say afterwards: the one count that can contradict them. clock_jump_ms: by how
    much the monotonic clock and the wall clock came apart. clean_per_s: the highest rate at which
    this client was seen to be on time on this machine. None: nobody looked, nothing is said.
    """

    attempts: Attempts
    load: Load
    from_ns: int
    until_ns: int
    slo_ms: float | None = None
    client_cpu_share: float | None = None
    in_flight_mean: float | None = None
    clock_jump_ms: float | None = None
    clean_per_s: float | None = None

    @property
    def judged(self) -> Attempts:
        """The rows that are judged."""
        return self.attempts.where(self._inside)

    @property
    def _inside(self) -> Bools:
        intended = self.attempts.intended
        inside: Bools = (intended >= self.from_ns) & (intended < self.until_ns)
        return inside

    @property
    def lag_limit_ms(self) -> float:
        """How late the client may be at its 99th percentile."""
        return max(LAG_MS, LAG_SHARE_OF_SLO * (self.slo_ms or 0.0))


def judge(facts: TrialFacts) -> Verdict:
    """The worst state that applies, with every reason for that state.

    A closed loop sends when it is answered, so it is never late or short of its rate, and never
    asks for more than the server gives: lag, rate and drops are not checked, and SATURATED does
    not exist. An overloaded server has no steady state to look for; SATURATED says so already.
    """
    rows = facts.judged
    overloaded = _overloaded(facts)
    if reasons := _client(facts, rows, is_overloaded=bool(overloaded)):
        return Verdict(State.INVALID_CLIENT, tuple(reasons))
    if reasons := _failed(rows):
        return Verdict(State.FAILED, tuple(reasons))
    if reasons := _wrong(rows):
        return Verdict(State.NOT_PARITY, tuple(reasons))
    if overloaded:
        return Verdict(State.SATURATED, tuple(Reason("overload", why) for why in overloaded))
    if reasons := _unsteady(settling(facts)):
        return Verdict(State.UNSTEADY, tuple(reasons))
    return Verdict(State.OK)


def settling(facts: TrialFacts) -> Steadiness:
    """Where the judged part of a trial becomes steady; what comes before is warm-up too."""
    rows = facts.judged
    return steadiness(rows.intended, rows.latency_ms, facts.from_ns, facts.until_ns)


def measured(facts: TrialFacts) -> Attempts:
    """The rows that numbers are made of: the judged part from where it is steady."""
    begins_ns = settling(facts).begins_ns
    if begins_ns is None:
        return facts.judged
    rows = facts.judged
    return rows.where(rows.intended >= begins_ns)


def _overloaded(facts: TrialFacts) -> list[str]:
    if not isinstance(facts.load, OpenLoad):
        return []
    return overload(facts.attempts, facts.load, facts.from_ns, facts.until_ns)


def _client(facts: TrialFacts, rows: Attempts, *, is_overloaded: bool) -> list[Reason]:
    """What the client did wrong."""
    checks: list[Callable[[], Reason | None]] = [
        lambda: _cpu(facts),
        lambda: _clock(facts, rows),
        lambda: _little(facts),
    ]
    if isinstance(facts.load, OpenLoad):
        checks += [
            lambda: _ceiling(facts),
            lambda: _lag(facts, rows, is_overloaded=is_overloaded),
            lambda: _rate(facts, rows),
            lambda: None if is_overloaded else _drops(rows),
        ]
    return [reason for check in checks if (reason := check()) is not None]


def _ceiling(facts: TrialFacts) -> Reason | None:
    """More than the client was seen to do cleanly is not believed, however well it seems to go."""
    offered = len(facts.judged) / ((facts.until_ns - facts.from_ns) / 1e9)
    if not facts.clean_per_s or offered <= facts.clean_per_s:
        return None
    return Reason(
        "ceiling",
        f"{offered:,.0f} requests a second are more than the {facts.clean_per_s:,.0f} at which "
        "this client was last seen to be on time here (`palio bench --self` looks again)",
    )


def _lag(facts: TrialFacts, rows: Attempts, *, is_overloaded: bool) -> Reason | None:
    """Late sends. Under overload only late timers: waiting to connect is then the server's."""
    sent = rows.where(rows.sent != NEVER)
    if not len(sent):
        return None
    left = sent.released if is_overloaded else sent.sent
    late_ms = percentile((left - sent.intended) / 1e6, 99)
    if late_ms <= facts.lag_limit_ms:
        return None
    return Reason(
        "lag",
        f"the client sent late: p99 {late_ms:.2f} ms after it meant to, "
        f"allowed are {facts.lag_limit_ms:g} ms",
    )


def _rate(facts: TrialFacts, rows: Attempts) -> Reason | None:
    """Too few sends in the time there was for them.

    The client's sends, not the server's answers. What could not be sent because there was no
    connection to send it on is for other checks.
    """
    kept_out = (rows.sent == NEVER) & np.isin(
        rows.fault, (Fault.DROPPED, Fault.REFUSED, Fault.TIMEOUT)
    )
    offered = len(rows) - int(np.count_nonzero(kept_out))
    grace_ns = round(facts.lag_limit_ms * 1e6)
    in_time = (rows.sent != NEVER) & (rows.sent < facts.until_ns + grace_ns)
    sent = int(np.count_nonzero(in_time))
    if sent >= ACHIEVED * offered:
        return None
    return Reason(
        "rate",
        f"the client sent {sent} of {offered} requests in time, "
        f"{sent / offered:.2%} where {ACHIEVED:.1%} are needed",
    )


def _drops(rows: Attempts) -> Reason | None:
    drops = int(np.count_nonzero(rows.fault == Fault.DROPPED))
    if not drops:
        return None
    return Reason(
        "drops",
        f"the client never sent {drops} of {len(rows)} requests, and the server was not overloaded",
    )


def _cpu(facts: TrialFacts) -> Reason | None:
    share = facts.client_cpu_share
    if share is None or share <= CPU_SHARE:
        return None
    return Reason("cpu", f"the client used {share:.0%} of its core, allowed are {CPU_SHARE:.0%}")


def _clock(facts: TrialFacts, rows: Attempts) -> Reason | None:
    jump_ms = facts.clock_jump_ms
    if jump_ms is not None and abs(jump_ms) > CLOCK_JUMP_MS:
        return Reason("clock", f"the clocks came apart by {jump_ms:.0f} ms during the run")
    was_sent, was_answered = rows.sent != NEVER, rows.last_byte != NEVER
    backwards = was_sent & (rows.sent < rows.intended)
    backwards |= was_sent & was_answered & (rows.last_byte < rows.sent)
    if not backwards.any():
        return None
    return Reason(
        "clock",
        f"{np.count_nonzero(backwards)} of {len(rows)} requests were sent before their time "
        "or answered before they were sent",
    )


def _little(facts: TrialFacts) -> Reason | None:
    """Little's law in its exact form for a window: the rows must add up to what was in flight.

    L is what the driver counted, lambda times W the time the rows say they spent in the window.
    They part when answers went unrecorded or stamps are wrong.
    """
    counted = facts.in_flight_mean
    rows = facts.attempts.where(facts.attempts.sent != NEVER)
    ends = settled_ns(rows, facts.load.timeout_s)
    knows_all = np.count_nonzero(ends == NEVER) <= LITTLE / 10 * len(rows)
    if not counted or not knows_all:
        return None
    inside = np.clip(ends, facts.from_ns, facts.until_ns) - np.clip(
        rows.sent, facts.from_ns, facts.until_ns
    )
    told = float(np.maximum(inside, 0).sum()) / (facts.until_ns - facts.from_ns)
    gap = abs(counted - told) / counted
    if gap <= LITTLE:
        return None
    return Reason(
        "little",
        f"Little's law fails by {gap:.1%}: {counted:.3g} requests were in flight on average, "
        f"the records account for {told:.3g}; allowed are {LITTLE:.0%}",
    )


def _failed(rows: Attempts) -> list[Reason]:
    """Nothing answered, almost nothing, or most of it broken for other reasons than load.

    A wrong answer is an answer; the next check is about those.
    """
    answered = int(np.count_nonzero(rows.is_good | (rows.fault == Fault.WRONG)))
    if not answered or answered < ANSWERED * len(rows):
        return [Reason("answered", f"{answered} of {len(rows)} requests were answered")]
    by_load = np.isin(rows.fault, (Fault.TIMEOUT, Fault.DROPPED))
    by_load |= (rows.fault == Fault.STATUS) & np.isin(rows.status, TURNED_AWAY)
    broken = len(rows) - answered - int(np.count_nonzero(by_load & ~rows.is_good))
    if broken <= BROKEN * len(rows):
        return []
    return [Reason("answered", f"{broken} of {len(rows)} requests failed")]


def _wrong(rows: Attempts) -> list[Reason]:
    wrong = int(np.count_nonzero(rows.fault == Fault.WRONG))
    if not wrong:
        return []
    return [Reason("parity", f"{wrong} of {len(rows)} answers were wrong")]


def _unsteady(found: Steadiness) -> list[Reason]:
    if found.begins_ns is not None:
        return []
    way = "rose" if found.drift > 0 else "fell"
    return [Reason("steady", f"latency never settled: it {way} by {abs(found.drift):.0%}")]
