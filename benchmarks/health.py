"""Is a server under twice its load still alive to those who ask? `/health` p99, three times.

Load is offered by the load client on a schedule fixed before the run (Poisson, seeded), at twice
the rate that the same server reached in a closed loop at 32 callers: it is sent on time whether or
not earlier requests were answered; what finds all 256 connections busy is dropped and counted.
Beside it one connection asks `/health` every 10 ms. Latency counts from
the intended time, on both. Before each run comes its control: the server idle, and a loop that
does nothing but count on the same core. What /health takes then is the machine's doing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import httptools
import numpy as np
import uvloop
from rich.console import Console
from rich.progress import track
from stage import (
    ask,
    embedding_requests,
    machine_line,
    on_the_servers_core,
    pinned_server,
    read_questions,
    stay_on_the_clients_core,
)

from palio.bench.attempts import Fault
from palio.bench.drive import drive
from palio.bench.load import OpenLoad
from palio.bench.questions import finished
from palio.bench.target import Target

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wire(asyncio.Protocol):
    """One connection; `answered` is called with the status of each answer, in order."""

    def __init__(self) -> None:
        self.due: list[int] = []
        self.latencies_ms: list[float] = []
        self.statuses: dict[int, int] = {}
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.latencies_ms.append((time.monotonic_ns() - self.due.pop(0)) / 1e6)

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost = True

    def send(self, request: bytes, due_ns: int) -> None:
        self.due.append(due_ns)
        self.transport.write(request)  # type: ignore[attr-defined]


async def probe(wire: Wire, seconds: float) -> list[float]:
    """Ask /health every 10 ms; how late each was sent, in ms, which is this client's own fault."""
    lags: list[float] = []
    began = time.monotonic_ns()
    for tick in range(round(seconds * 100)):
        due = began + tick * 10_000_000
        while (left := due - time.monotonic_ns()) > 0:
            await asyncio.sleep(left / 1e9)
        lags.append((time.monotonic_ns() - due) / 1e6)
        wire.send(HEALTH, due)
    return lags


async def watch(port: int, seconds: float) -> list[float]:
    """/health of a server that has nothing else to do."""
    health = (await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port))[1]
    await probe(health, seconds)
    await asyncio.sleep(0.5)
    health.transport.close()
    return health.latencies_ms


def control(port: int, seconds: float) -> list[float]:
    """/health of an idle server that shares its core with a process that only counts."""
    with on_the_servers_core():
        spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return uvloop.run(watch(port, seconds))
    finally:
        spinner.kill()
        spinner.wait()


@dataclass(frozen=True)
class Run:
    """What one run at twice the load gave."""

    health_ms: list[float]
    lags_ms: list[float]
    faults: dict[str, int]


async def one_run(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int
) -> Run:
    loop = asyncio.get_running_loop()
    health = (await loop.create_connection(Wire, "127.0.0.1", port))[1]
    load = OpenLoad(
        rate_per_s=rate, duration_s=seconds, seed=seed, timeout_s=5.0, warmup_s=1.0, connections=256
    )
    target = Target(host="127.0.0.1", port=port)
    driven, lags = await asyncio.gather(
        drive(target, finished(requests), load), probe_after(health, 1.0, seconds)
    )
    health.transport.close()
    if health.is_lost or health.due or health.statuses.keys() != {200}:
        raise SystemExit(
            f"/health was not answered every time: {health.statuses}, {len(health.due)} open"
        )
    faults = Counter(Fault(fault).name for fault in driven.attempts.fault.tolist())
    return Run(health.latencies_ms, lags, dict(faults))


async def probe_after(wire: Wire, wait_s: float, seconds: float) -> list[float]:
    """Probe once the load is there: taking in 256 new connections at once costs some 35 ms."""
    await asyncio.sleep(wait_s)
    return await probe(wire, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    stay_on_the_clients_core()
    requests = embedding_requests(read_questions(None))
    gc.freeze()
    console = Console(width=110)
    tails: list[float] = []
    floors: list[float] = []
    with pinned_server() as port:
        ask(port, requests, 32, 2.0)
        closed = ask(port, requests, 32, 3.0)
        rate = 2 * closed.per_s
        console.print(f"{machine_line()}: closed loop at c = 32 reaches {closed.per_s:.0f}/s")
        for run in track(range(options.runs), "measuring", console=Console(stderr=True)):
            idle = control(port, options.seconds)
            floors.append(float(np.percentile(idle, 99)))
            got = uvloop.run(one_run(port, requests, rate, options.seconds, seed=run))
            tails.append(float(np.percentile(got.health_ms, 99)))
            console.print(
                f"offered {rate:.0f}/s: /health p50 {np.percentile(got.health_ms, 50):.2f} ms, "
                f"p99 {tails[-1]:.2f} ms, max {max(got.health_ms):.2f} ms "
                f"(client late by p99 {np.percentile(got.lags_ms, 99):.2f}, "
                f"max {max(got.lags_ms):.2f} ms); load: {got.faults}; "
                f"control p99 {floors[-1]:.2f} ms, max {max(idle):.2f} ms",
                highlight=False,
            )
        after = ask(port, requests, 32, 3.0)
    console.print(
        f"/health p99, median of {options.runs}: {statistics.median(tails):.2f} ms; "
        f"of the control: {statistics.median(floors):.2f} ms"
    )
    console.print(f"afterwards the closed loop reaches {after.per_s:.0f}/s again")
    if after.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
