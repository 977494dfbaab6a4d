"""What serving costs on top of the model, and what batching brings: ratios from one run.

The server is pinned to one core and the client to another. Every pair of figures that a ratio is
made of is measured in turn, A B A B, and the ratio is the median over the rounds, because the
speed of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stage import (
    MODEL,
    Seen,
    ask,
    embedding_requests,
    machine_line,
    median_of,
    on_the_servers_core,
    pinned_server,
    read_questions,
    stay_on_the_clients_core,
)

from palio.settings import cache_root
from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.progress_rich import RichProgress

SIZES = (1, 8, 32)
OFF = f"models.{MODEL}.batch.enabled=false"


class BareLoop:
    """The reference process: tokenise and run, no server."""

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
    script = Path(__file__).parent / "bare_loop.py"
    with on_the_servers_core():
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder), questions or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield BareLoop(process)
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Round:
    """One pass over everything at one number of callers."""

    size: int
    bare: float
    on: Seen
    off: Seen


def measure(questions: str | None, rounds: int, seconds: float) -> tuple[list[Round], list[float]]:
    """All rounds in the order they were run, and what batching adds to p50 at c = 1, in µs.

    The machine's speed wanders by more than that in seconds, so the two are asked in turn in
    slices of a third of a second, the order swapped each time.
    """
    requests = embedding_requests(read_questions(questions))
    kept: list[Round] = []
    with (
        bare_loop(questions) as bare,
        pinned_server() as on,
        pinned_server(f"zoo:{MODEL}", OFF) as off,
    ):
        for port in (on, off):
            ask(port, requests, 8, 2.0)
        for _ in track(range(rounds), "measuring", console=Console(stderr=True)):
            kept += [
                Round(
                    size,
                    bare.rows_per_s(seconds, size),
                    ask(on, requests, size, seconds),
                    ask(off, requests, size, seconds),
                )
                for size in SIZES
            ]
        added_us = []
        for pair in track(range(10 * rounds), "c = 1", console=Console(stderr=True)):
            first, second = (on, off) if pair % 2 else (off, on)
            p50 = {port: ask(port, requests, 1, 0.33).latency_ms(50.0) for port in (first, second)}
            added_us.append(1e3 * (p50[on] - p50[off]))
    return kept, added_us


def table_of(rounds: Sequence[Round]) -> list[dict[str, float | str]]:
    """One row for each number of callers and arm: medians over the rounds."""
    rows: list[dict[str, float | str]] = []
    for size in SIZES:
        here = [each for each in rounds if each.size == size]
        bare = statistics.median(each.bare for each in here)
        rows.append({"callers": size, "arm": f"bare loop, batch {size}", "rows/s": round(bare)})
        for arm, periods in (
            ("served, batching off", [each.off for each in here]),
            ("served, batching on", [each.on for each in here]),
        ):
            rows.append(
                {
                    "callers": size,
                    "arm": arm,
                    "rows/s": round(statistics.median(p.per_s for p in periods)),
                    "p50 ms": round(statistics.median(p.latency_ms(50.0) for p in periods), 2),
                    "p99 ms": round(statistics.median(p.latency_ms(99.0) for p in periods), 2),
                    "mean batch": round(statistics.median(p.mean_batch for p in periods), 2),
                }
            )
    return rows


def ratios_of(rounds: Sequence[Round], added_us: Sequence[float]) -> dict[str, str]:
    """The claims, each a median over the rounds with its least and most."""
    by_size = {size: [each for each in rounds if each.size == size] for size in SIZES}
    claims = {
        f"served at c = {size} / bare loop, batch {size}": median_of(
            [each.on.per_s / each.bare for each in by_size[size]]
        )
        for size in SIZES
    }
    claims["batching on / off at c = 32"] = median_of(
        [each.on.per_s / each.off.per_s for each in by_size[32]]
    )
    quarter, _, three_quarters = statistics.quantiles(added_us, n=4)
    claims["batching adds to p50 at c = 1, µs"] = (
        f"{statistics.median(added_us):.0f} (quartiles {quarter:.0f} to {three_quarters:.0f})"
    )
    claims["mean batch at c = 32, batching on"] = median_of(
        [each.on.mean_batch for each in by_size[32]]
    )
    claims["mean batch, batching off"] = median_of([each.off.mean_batch for each in rounds])
    claims["failed requests"] = str(sum(each.on.failed + each.off.failed for each in rounds))
    return claims


def show(rows: Sequence[dict[str, float | str]], ratios: dict[str, str], title: str) -> None:
    console = Console(width=110)
    table = Table(title=title, title_justify="left")
    for column in ("callers", "arm", "rows/s", "p50 ms", "p99 ms", "mean batch"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in rows:
        cells = [str(row.get(column.header, "")) for column in table.columns]
        table.add_row(*cells, end_section=row["arm"] == "served, batching on")
    console.print(table)
    for claim, value in ratios.items():
        console.print(f"{claim:40} {value}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each cell in each round")
    parser.add_argument("--questions", help="a file of questions, one a line")
    parser.add_argument("--save", type=Path, help="keep the table and the ratios as JSON")
    options = parser.parse_args()
    stay_on_the_clients_core()
    rounds, added_us = measure(options.questions, options.rounds, options.seconds)
    rows, ratios = table_of(rounds), ratios_of(rounds, added_us)
    title = (
        f"MiniLM, short questions, closed loop, server on one core of {machine_line()}; "
        f"medians of {options.rounds} rounds of {options.seconds:g} s"
    )
    show(rows, ratios, title)
    if options.save:
        kept = {"title": title, "date": f"{datetime.now(UTC):%Y-%m-%d}", "rows": rows}
        options.save.write_bytes(
            orjson.dumps({**kept, "ratios": ratios}, option=orjson.OPT_INDENT_2)
        )
    if ratios["failed requests"] != "0":
        sys.exit(1)


if __name__ == "__main__":
    main()
