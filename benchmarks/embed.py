"""What serving costs on top of the model, and what batching brings: ratios from one run.

The server is pinned to one core and the client to another. Every pair of figures that a ratio is
made of is measured in turn, A B A B, and the ratio is the median over the rounds, because the
speed of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stage import (
    MODEL,
    SERVER_CPU,
    embedding_requests,
    machine_line,
    median_of,
    pinned_server,
    read_questions,
    stay_on_the_clients_core,
)

from palio.bench.closed import Period, closed_loop
from palio.settings import cache_root
from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.progress_rich import RichProgress


class BareLoop:
    """The reference process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def rows_per_s(self, seconds: float, batch: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds} {batch}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def bare_loop(questions: str | None) -> Iterator[BareLoop]:
    with RichProgress() as progress:
        folder = build(f"zoo:{MODEL}", Cache(cache_root(os.environ)), progress)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "bare_loop.py"), folder, questions or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield BareLoop(process)
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each cell in each round")
    parser.add_argument("--questions", help="a file of questions, one a line")
    options = parser.parse_args()
    stay_on_the_clients_core()
    requests = embedding_requests(read_questions(options.questions))
    off_setting = f"models.{MODEL}.batch.enabled=false"

    def ask(port: int, concurrency: int, seconds: float) -> Period:
        async def go() -> Period:
            return await closed_loop(
                "127.0.0.1", port, requests, concurrency=concurrency, seconds=seconds
            )

        return uvloop.run(go())

    bare_rates: dict[int, list[float]] = {1: [], 8: [], 32: []}
    periods: dict[tuple[bool, int], list[Period]] = {}
    with (
        bare_loop(options.questions) as bare,
        pinned_server() as on,
        pinned_server(f"zoo:{MODEL}", off_setting) as off,
    ):
        for port in (on, off):
            ask(port, 8, 2.0)
        for _ in track(range(options.rounds), "measuring", console=Console(stderr=True)):
            for size in bare_rates:
                bare_rates[size].append(bare.rows_per_s(options.seconds, size))
                for batching, port in ((True, on), (False, off)):
                    period = ask(port, size, options.seconds)
                    periods.setdefault((batching, size), []).append(period)

    console = Console(width=110)
    console.print(machine_line())
    table = Table(
        title=f"MiniLM, short questions, closed loop, server on one core; medians of {options.rounds}",
        title_justify="left",
    )
    for title in ("callers", "arm", "rows/s", "p50 ms", "p99 ms", "mean batch"):
        table.add_column(title, justify="left" if title == "arm" else "right")
    for size, rates in bare_rates.items():
        middle = sorted(rates)[len(rates) // 2]
        table.add_row(str(size), f"bare loop, batch {size}", f"{middle:.0f}", "", "", "")
        for batching in (False, True):
            runs = sorted(periods[batching, size], key=lambda period: period.per_s)
            run = runs[len(runs) // 2]
            name = "served, batching on" if batching else "served, batching off"
            table.add_row(
                "",
                name,
                f"{run.per_s:.0f}",
                f"{run.latency_ms(0.5):.2f}",
                f"{run.latency_ms(0.99):.2f}",
                f"{run.mean_batch:.2f}",
                end_section=batching,
            )
    console.print(table)

    def ratios(batching: bool, size: int, bare_size: int) -> list[float]:
        pairs = zip(periods[batching, size], bare_rates[bare_size], strict=True)
        return [period.per_s / rate for period, rate in pairs]

    added_us = [
        1e3 * (on.latency_ms(0.5) - off.latency_ms(0.5))
        for on, off in zip(periods[True, 1], periods[False, 1], strict=True)
    ]
    failed = sum(period.failed for runs in periods.values() for period in runs)
    console.print(
        f"served at c = 32 / bare loop, batch 32:  {median_of(ratios(True, 32, 32))}\n"
        f"served at c = 8 / bare loop, batch 8:    {median_of(ratios(True, 8, 8))}\n"
        f"served at c = 1 / bare loop, batch 1:    {median_of(ratios(True, 1, 1))}\n"
        f"batching on / off at c = 32:             "
        f"{median_of([a / b for a, b in zip(ratios(True, 32, 32), ratios(False, 32, 32), strict=True)])}\n"
        f"batching adds to p50 at c = 1, µs:       {median_of(added_us)}\n"
        f"mean batch with batching off:            "
        f"{max(run.mean_batch for (on, _), runs in periods.items() if not on for run in runs):.3f}\n"
        f"failed requests:                         {failed}",
        highlight=False,
    )
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
