"""Runs the demo: build, serve, ask, measure, and stay if there is somebody to stay for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

from palio.bench.adapters import OpenAIEmbeddings, prepare
from palio.bench.load import ClosedLoad
from palio.bench.summary import Quantile
from palio.bench.target import read_target
from palio.bench.trial import Order, Outcome, run_trial
from palio.bench.workloads import Workload
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


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table: so many callers, batching on or off, and what came of it."""

    concurrency: int
    batching: bool
    outcome: Outcome


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
        if any(cell.outcome.summary is None or cell.outcome.summary.errors for cell in cells):
            raise SettingsError("requests of the measurement failed; see the table above")
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
    workload = Workload(name="questions", texts=tuple((line,) for line in _lines("questions.txt")))
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    # Drawing takes time from the client that measures, so it is done seldom.
    progress = Progress(*columns, console=console, transient=True, refresh_per_second=2)
    with progress, ThreadPoolExecutor(1) as aside:
        task = progress.add_task("measuring", total=2 * len(_CONCURRENCY))
        for concurrency in _CONCURRENCY:
            for served, batching in ((off, False), (on, True)):
                progress.update(
                    task,
                    description=f"{concurrency} callers, batching {'on' if batching else 'off'}",
                )
                order = _order(served, workload, concurrency, seconds)
                # In a thread of its own, so that signals stay with this one.
                yield Cell(concurrency, batching, aside.submit(run_trial, order).result())
                progress.advance(task)


def _order(served: Served, workload: Workload, concurrency: int, seconds: float) -> Order:
    target = read_target(served.url)
    return Order(
        target=target,
        questions=prepare(OpenAIEmbeddings(_MODEL), workload, target),
        load=ClosedLoad(
            concurrency=concurrency, duration_s=seconds, warmup_s=min(1.0, seconds / 2)
        ),
    )


def _table(cells: Sequence[Cell], seconds: float) -> Table:
    table = Table(
        title=f"Short questions, closed loop, {seconds:g} s a row, all on this machine",
        title_justify="left",
        caption="~ means: seen, but so short and uneven a run cannot vouch for it",
        caption_justify="left",
    )
    titles = ("callers", "batching", "requests/s", "p50 ms", "p99 ms", "mean batch", "verdict")
    for title in titles:
        table.add_column(title, justify="left" if title in ("batching", "verdict") else "right")
    for cell in cells:
        table.add_row(
            str(cell.concurrency),
            "on" if cell.batching else "off",
            *_figures(cell.outcome),
            end_section=cell.batching,
        )
    return table


def _figures(outcome: Outcome) -> tuple[str, ...]:
    """Rate, p50, p99, mean batch and verdict; without a verdict that has numbers, no number."""
    verdict, summary = outcome.verdict, outcome.summary
    if verdict is None or summary is None or not verdict.has_numbers:
        return "", "", "", "", "stopped" if verdict is None else verdict.line()
    by_percent = {quantile.percent: quantile for quantile in summary.latency}
    return (
        f"{summary.answered_per_s:.0f}",
        _ms(by_percent[50.0]),
        _ms(by_percent[99.0]),
        f"{summary.mean_batch or 0:.2f}",
        str(verdict.state),
    )


def _ms(quantile: Quantile) -> str:
    return f"{quantile.latency_ms:.1f}" if quantile.is_supported else f"~{quantile.latency_ms:.1f}"


def _curl(url: str) -> str:
    body = orjson.dumps({"model": _MODEL, "input": "hello"}).decode()
    return f"  curl {url}{_PATH} -H 'Content-Type: application/json' -d '{body}'"


def _lines(name: str) -> list[str]:
    return (Path(__file__).parent / name).read_text("utf-8").splitlines()
