"""A server and a client that exist on paper: same rows as a real trial, no time passes.

The server's service law is known and so are its faults, which makes it the ruler's ruler: what the
checks and percentiles say about it can be compared with what is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Final

import numpy as np

from palio.bench.attempts import F64, I64, NEVER, STAGES, Attempts, Bools, Fault
from palio.bench.checks import TrialFacts
from palio.bench.load import ClosedLoad, Load, OpenLoad
from palio.bench.overload import settled_ns
from palio.bench.repeats import asked_before

HIT_MS: Final = 0.1  # what an answer from a cache takes
WIRE_MS: Final = 0.05  # what an answer is under way
SETTLING_SLOWER: Final = 1.0  # how much slower a cold server's first answer is


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`workers` that serve in order of arrival, gamma-distributed in time, and what ails them.

    slower: 0.1 takes 10 % longer. drift: 0.5 takes 50 % longer at the end than at the start.
    settles_s: starts twice as slow and settles with this time constant. freeze_s: nothing moves
    for so long, from `freeze_at_s` on.
    """

    workers: int = 2
    service_ms: float = 4.0
    cv: float = 0.5
    slower: float = 0.0
    stall_share: float = 0.0
    stall_ms: float = 200.0
    caches: bool = False
    wrong_share: float = 0.0
    drift: float = 0.0
    settles_s: float = 0.0
    freeze_at_s: float = 0.0
    freeze_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client that sends within `lag_ms` or so, and what ails it.

    Every `starved_every_ms` it gets no processor for `starved_ms`. `drops` is the share it never
    sends, `loses` the share of answered requests that it forgets to write down.
    """

    lag_ms: float = 0.02
    starved_every_ms: float = 100.0
    starved_ms: float = 0.0
    drops: float = 0.0
    loses: float = 0.0
    cpu_share: float = 0.3


def play(
    load: Load,
    server: Server,
    client: Client | None = None,
    *,
    seed: int,
    inputs: int = 500,
    slo_ms: float | None = None,
) -> TrialFacts:
    """One trial on paper: its rows, and the facts a driver would note beside them."""
    client = client or Client()
    rng = np.random.default_rng(seed)
    if isinstance(load, OpenLoad):
        trial = _play_open(load, server, client, rng, inputs)
        until_s = load.warmup_s + load.duration_s
    else:
        trial = _play_closed(load, server, rng, inputs)
        until_s = (
            load.warmup_s + load.duration_s
            if load.duration_s
            else float(trial.last_byte.max() / 1e9)
        )
    from_ns, until_ns = round(load.warmup_s * 1e9), round(until_s * 1e9)
    if not load.duration_s:
        from_ns = 0
    in_flight = _mean_in_flight(trial, load.timeout_s, from_ns, until_ns)
    written = (rng.random(len(trial)) >= client.loses) | ~trial.is_good
    return TrialFacts(
        attempts=trial.where(written),
        load=load,
        from_ns=from_ns,
        until_ns=until_ns,
        slo_ms=slo_ms,
        client_cpu_share=client.cpu_share,
        in_flight_mean=in_flight,
    )


def poisson(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> I64:
    """Arrival times in ns, in order."""
    number = rng.poisson(rate_per_s * duration_s)
    return np.sort(rng.uniform(0, duration_s * 1e9, number)).astype(np.int64)


def _play_open(
    load: OpenLoad, server: Server, client: Client, rng: np.random.Generator, inputs: int
) -> Attempts:
    span_s = load.warmup_s + load.duration_s
    intended = poisson(load.rate_per_s, span_s, rng)
    n = len(intended)
    released = intended + (rng.exponential(client.lag_ms, n) * 1e6).astype(np.int64)
    if client.starved_ms:
        into = released % round(client.starved_every_ms * 1e6)
        released += np.maximum(round(client.starved_ms * 1e6) - into, 0)
    dropped: Bools = rng.random(n) < client.drops
    input_id = rng.integers(0, inputs, n)
    service_ms = _service_ms(server, released, span_s, rng)
    if server.caches:
        service_ms[asked_before(input_id)] = HIT_MS
    done = np.full(n, NEVER, np.int64)
    # Who is starved sends late but in order; ties keep theirs.
    goes = np.argsort(released, kind="stable")
    goes = goes[~dropped[goes]]
    done[goes] = _serve(released[goes], service_ms[goes], server)
    late: Bools = ~dropped & (done - intended > load.timeout_s * 1e9)
    fault = _wrong(server, n, rng)
    fault[late] = Fault.TIMEOUT
    fault[dropped] = Fault.DROPPED
    done[late] = NEVER
    return _rows(intended, np.where(dropped, NEVER, released), done, fault, input_id)


def _play_closed(
    load: ClosedLoad, server: Server, rng: np.random.Generator, inputs: int
) -> Attempts:
    """Each caller asks again when answered; the server takes them in the order they ask."""
    horizon_ns = (load.warmup_s + load.duration_s) * 1e9 if load.duration_s else float("inf")
    most = load.requests or round(
        horizon_ns / 1e6 / server.service_ms * min(load.concurrency, server.workers) * 2
    )
    span_s = horizon_ns / 1e9 if load.duration_s else 1.0
    callers = [float(at) for at in rng.uniform(0, 1e6, load.concurrency)]
    heapify(callers)
    free = [0.0] * server.workers
    draws = _draws(server, most, rng)
    input_id = rng.integers(0, inputs, most)
    repeated = asked_before(input_id) if server.caches else np.zeros(most, bool)
    sent, done = [], []
    for number in range(most):
        at = callers[0]
        if at >= horizon_ns:
            break
        works_ms = HIT_MS if repeated[number] else draws[number] * _pace(server, at, span_s)
        begins = _thawed(server, max(at, free[0]))
        ends = _ended(server, begins, begins + works_ms * 1e6)
        heapreplace(free, ends)
        heapreplace(callers, ends + WIRE_MS * 1e6)
        sent.append(round(at))
        done.append(round(ends + WIRE_MS * 1e6))
    n = len(sent)
    intended = np.array(sent, np.int64)
    finished = np.array(done, np.int64)
    return _rows(intended, intended, finished, _wrong(server, n, rng), input_id[:n])


def _service_ms(server: Server, at: I64, span_s: float, rng: np.random.Generator) -> F64:
    paces = np.array([_pace(server, moment, span_s) for moment in at.tolist()])
    taken: F64 = _draws(server, len(at), rng) * paces
    return taken


def _draws(server: Server, n: int, rng: np.random.Generator) -> F64:
    shape = server.cv**-2
    draws: F64 = rng.gamma(shape, server.service_ms / shape, n) * (1 + server.slower)
    draws[rng.random(n) < server.stall_share] += server.stall_ms
    return draws


def _pace(server: Server, at_ns: float, span_s: float) -> float:
    pace = 1 + server.drift * at_ns / 1e9 / span_s
    if server.settles_s:
        pace += SETTLING_SLOWER * float(np.exp(-at_ns / 1e9 / server.settles_s))
    return pace


def _serve(arrived: I64, service_ms: F64, server: Server) -> I64:
    """When each would be answered: in order of arrival, by whoever is free first."""
    free = [0.0] * server.workers
    done = np.empty(len(arrived), np.int64)
    for number, (at, works_ms) in enumerate(
        zip(arrived.tolist(), service_ms.tolist(), strict=True)
    ):
        begins = _thawed(server, max(at, free[0]))
        ends = _ended(server, begins, begins + works_ms * 1e6)
        heapreplace(free, ends)
        done[number] = round(ends + WIRE_MS * 1e6)
    return done


def _thawed(server: Server, begins: float) -> float:
    """When work that would begin then really does."""
    frozen, thaws = server.freeze_at_s * 1e9, (server.freeze_at_s + server.freeze_s) * 1e9
    return thaws if frozen <= begins < thaws else begins


def _ended(server: Server, begins: float, ends: float) -> float:
    """When work ends that the freeze may have caught under way."""
    caught = server.freeze_s and begins < server.freeze_at_s * 1e9 < ends
    return ends + server.freeze_s * 1e9 if caught else ends


def _wrong(server: Server, n: int, rng: np.random.Generator) -> I64:
    return np.where(rng.random(n) < server.wrong_share, Fault.WRONG, Fault.NONE).astype(np.int64)


def _mean_in_flight(trial: Attempts, timeout_s: float, from_ns: int, until_ns: int) -> float:
    """What a driver that keeps count of its open requests would have seen on average."""
    ends = settled_ns(trial, timeout_s)
    was_sent = trial.sent != NEVER
    begun = trial.sent[was_sent]
    ended = ends[was_sent]
    times = np.concatenate((begun, ended))
    order = np.argsort(times, kind="stable")
    steps = np.concatenate((np.ones(len(begun)), -np.ones(len(ended))))[order]
    moments = np.clip(np.append(times[order], until_ns), from_ns, until_ns)
    return float(np.cumsum(steps) @ np.diff(moments)) / (until_ns - from_ns)


def _rows(intended: I64, sent: I64, done: I64, fault: I64, input_id: I64) -> Attempts:
    n = len(intended)
    answered = done != NEVER
    return Attempts(
        intended=intended,
        released=sent,
        sent=sent,
        first_byte=done,
        last_byte=done,
        status=np.where(answered, 200, 0).astype(np.int16),
        fault=fault.astype(np.uint8),
        bytes_out=np.full(n, 200, np.int32),
        bytes_in=np.where(answered, 1000, 0).astype(np.int32),
        input_id=input_id.astype(np.int32),
        rows=np.ones(n, np.int32),
        stages=np.full((n, len(STAGES)), np.nan, np.float32),
        batch=np.zeros(n, np.int16),
    )
