"""Whether a server kept up with an open load, told apart from a client that did not.

Overload is the server's and a legal result. It shows in one of three ways: the backlog grows while
answers come slower than questions; requests are given up or turned away; or every connection of
the client is busy and what comes next cannot be sent.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np

from palio.bench.attempts import I64, NEVER, Attempts, Bools, Fault
from palio.bench.load import OpenLoad

TURNED_AWAY: Final = (429, 503, 504)
LOST_SHARE: Final = 0.01  # more than this timed out, turned away, or without a free connection
BEHIND: Final = 0.01  # the backlog grows by more than this share of what is offered
CLIMBS: Final = 0.5  # three of four pairs of moments have the longer backlog later
SLICES: Final = 20
FULL: Final = 0.9  # of the connections busy: a drop then is not the client's doing
_FEWEST: Final = 100


def overload(attempts: Attempts, load: OpenLoad, from_ns: int, until_ns: int) -> list[str]:
    """Why the server did not keep up with what was intended between two moments, in figures."""
    inside = (attempts.intended >= from_ns) & (attempts.intended < until_ns)
    asked = int(np.count_nonzero(inside))
    if not asked:
        return []
    given_up = inside & (attempts.fault == Fault.TIMEOUT)
    turned_away = inside & (attempts.fault == Fault.STATUS)
    turned_away &= np.isin(attempts.status, TURNED_AWAY)
    no_room = inside & (attempts.fault == Fault.DROPPED) & _connections_full(attempts, load)
    found = [
        f"{lost} of {asked} requests {what}"
        for what, lost in (
            (f"were not answered in {load.timeout_s:g} s", np.count_nonzero(given_up)),
            ("were turned away", np.count_nonzero(turned_away)),
            (f"found all {load.connections} connections busy", np.count_nonzero(no_room)),
        )
        if lost > LOST_SHARE * asked
    ]
    return found + _falling_behind(attempts, load, from_ns, until_ns)


def settled_ns(attempts: Attempts, timeout_s: float) -> I64:
    """When each attempt was over: answered, or given up; `NEVER` where the rows do not say."""
    given_up = attempts.intended + round(timeout_s * 1e9)
    ends = np.where(attempts.fault == Fault.TIMEOUT, given_up, NEVER)
    return np.where(attempts.last_byte == NEVER, ends, attempts.last_byte)


def _connections_full(attempts: Attempts, load: OpenLoad) -> Bools:
    was_sent = attempts.sent != NEVER
    ends = settled_ns(attempts, load.timeout_s)
    begun = np.sort(attempts.sent[was_sent])
    ended = np.sort(ends[was_sent & (ends != NEVER)])
    busy = np.searchsorted(begun, attempts.intended) - np.searchsorted(ended, attempts.intended)
    full: Bools = busy >= FULL * load.connections
    return full


def _falling_behind(attempts: Attempts, load: OpenLoad, from_ns: int, until_ns: int) -> list[str]:
    """The backlog grows all along, by more than the luck of arrivals explains.

    Whether answers come slower than questions is then a matter of counting; a freeze that is
    worked off again does neither.
    """
    inside = (attempts.intended >= from_ns) & (attempts.intended < until_ns)
    asked = int(np.count_nonzero(inside))
    if asked < _FEWEST:
        return []
    ends = settled_ns(attempts, load.timeout_s)
    counts = attempts.fault != Fault.DROPPED
    arrived = np.sort(attempts.intended[counts])
    over = np.sort(np.where(ends == NEVER, attempts.intended, ends)[counts])
    edges = np.linspace(from_ns, until_ns, SLICES + 1)[1:]
    backlog = np.searchsorted(arrived, edges) - np.searchsorted(over, edges)
    earlier, later = np.triu_indices(SLICES, 1)
    steps = backlog[later] - backlog[earlier]
    grew = float(np.median(steps / (later - earlier))) * SLICES
    climbs = float(np.sign(steps).mean())
    answered = int(np.count_nonzero((over >= from_ns) & (over < until_ns)))
    if grew < max(BEHIND * asked, sqrt(asked)) or climbs < CLIMBS or answered >= asked:
        return []
    span_s = (until_ns - from_ns) / 1e9
    return [
        f"the backlog grew by about {grew:.0f} requests in {span_s:g} s: "
        f"{asked / span_s:.1f} a second came, {answered / span_s:.1f} were answered"
    ]
