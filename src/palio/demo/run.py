"""Runs the demo: build, serve, ask, measure, and stay if there is somebody to stay for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from palio.bench.closed import Period, closed_loop, post_json
from palio.core.errors import SettingsError
from palio.settings import cache_root
from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.progress_rich import RichProgress

_MODEL = "minilm-l6"
_SOURCE = f"zoo:{_MODEL}"
_PATH = "/v1/embeddings"
_CONCURRENCY = (1, 8, 32)
_READY = re.compile(r"palio is ready at (http://\S+)")
_ASKED = (
    "Is my money going to cost more to borrow?",
    "When can I get to my flight?",
    "My dog likes to nap on furniture.",
)
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Served:
    """A server process that is ready."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table: so many callers, batching on or off, and what came of it."""

    concurrency: int
    batching: bool
    period: Period


def run_demo(*, http_port: int, seconds: float, serve_on: bool) -> None:
    """Do it all; with `serve_on` keep serving until interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Not to leave the servers behind, which are processes of their own.
        signal.signal(number, _leave)
    console = Console()
    with RichProgress() as progress:
        build(_SOURCE, Cache(cache_root(os.environ)), progress)
    with _serving(http_port, batching=True) as on:
        console.print(f"[bold]{_MODEL}[/] is served at {on.url}, with its real weights.\n")
        console.print(_nearest(on))
        with _serving(0, batching=False) as off:
            cells = list(_measure(on, off, seconds, console))
        console.print(_table(cells, seconds))
        failed = sum(cell.period.failed for cell in cells)
        if failed:
            raise SettingsError(f"{failed} requests of the measurement failed; see above")
        console.print("Ask it yourself:", _curl(on.url), sep="\n", markup=False, soft_wrap=True)
        if serve_on:
            try:
                console.print("\nServing until Ctrl-C.")
                on.process.wait()
            except KeyboardInterrupt:
                console.print("Stopping.")


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _serving(port: int, *, batching: bool) -> Iterator[Served]:
    """`palio serve` in a process of its own; what it logs is shown only if it fails."""
    command = [sys.executable, "-m", "palio.cli", "serve", _SOURCE, "--http-port", str(port)]
    if not batching:
        command += ["--set", f"models.{_MODEL}.batch.enabled=false"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(  # noqa: S603  (our own command, built above)
            command, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield Served(process, _wait_until_ready(process, log))
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[str], log: Any) -> str:
    assert process.stdout is not None  # noqa: S101  (it was asked for)
    for line in process.stdout:
        if found := _READY.search(line):
            return found[1]
    process.wait()
    log.seek(0)
    raise SettingsError(f"the server did not start:\n{log.read().strip()}")


def _nearest(served: Served) -> Table:
    """For each question its nearest sentence, for a reader to agree with or not."""
    sentences = _lines("sentences.txt")
    known = _embed(served, sentences)
    likeness = _embed(served, _ASKED) @ known.T
    table = Table(title="The nearest of twelve sentences, by cosine", title_justify="left")
    for title in ("asked", "nearest", "cosine"):
        table.add_column(title, justify="right" if title == "cosine" else "left")
    for asked, row in zip(_ASKED, likeness, strict=True):
        best = int(row.argmax())
        table.add_row(asked, sentences[best], f"{row[best]:.3f}")
    return table


def _embed(served: Served, texts: Sequence[str]) -> Vectors:
    """The unit vectors of some texts, [n, 384], as any client would ask for them."""
    body = orjson.dumps({"model": _MODEL, "input": list(texts)})
    request = urllib.request.Request(  # noqa: S310  (a URL we made)
        served.url + _PATH, body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  (as above)
        data = orjson.loads(answer.read())["data"]
    return np.array([each["embedding"] for each in data], np.float32)


def _measure(on: Served, off: Served, seconds: float, console: Console) -> Iterator[Cell]:
    """Off and on in turn at each concurrency, so that both meet the same machine."""
    requests = [
        post_json(_PATH, orjson.dumps({"model": _MODEL, "input": question}))
        for question in _lines("questions.txt")
    ]
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=2 * len(_CONCURRENCY))
        for concurrency in _CONCURRENCY:
            for served, batching in ((off, False), (on, True)):
                progress.update(
                    task,
                    description=f"{concurrency} callers, batching {'on' if batching else 'off'}",
                )
                asyncio.run(_ask(served, requests, concurrency, min(1.0, seconds / 2)))
                period = asyncio.run(_ask(served, requests, concurrency, seconds))
                yield Cell(concurrency, batching, period)
                progress.advance(task)


async def _ask(
    served: Served, requests: Sequence[bytes], concurrency: int, seconds: float
) -> Period:
    return await closed_loop(
        "127.0.0.1", served.port, requests, concurrency=concurrency, seconds=seconds
    )


def _table(cells: Sequence[Cell], seconds: float) -> Table:
    table = Table(
        title=f"Short questions, closed loop, {seconds:g} s a row, all on this machine",
        title_justify="left",
    )
    for title in ("callers", "batching", "requests/s", "p50 ms", "p99 ms", "mean batch", "failed"):
        table.add_column(title, justify="left" if title == "batching" else "right")
    for cell in cells:
        period = cell.period
        table.add_row(
            str(cell.concurrency),
            "on" if cell.batching else "off",
            f"{period.per_s:.0f}",
            f"{period.latency_ms(0.50):.1f}",
            f"{period.latency_ms(0.99):.1f}",
            f"{period.mean_batch:.2f}",
            str(period.failed),
            end_section=cell.batching,
        )
    return table


def _curl(url: str) -> str:
    body = orjson.dumps({"model": _MODEL, "input": "hello"}).decode()
    return f"  curl {url}{_PATH} -H 'Content-Type: application/json' -d '{body}'"


def _lines(name: str) -> list[str]:
    return (Path(__file__).parent / name).read_text("utf-8").splitlines()
