"""What the benchmarks share: a server pinned to one core, questions, and medians."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from palio.bench.drive import drive_alone
from palio.bench.load import ClosedLoad
from palio.bench.questions import finished, post
from palio.bench.summary import Summary, summarise
from palio.bench.target import Target

MODEL = "minilm-l6"
PATH = "/v1/embeddings"
SERVER_CPU, CLIENT_CPU = 0, 1
_READY = re.compile(r"palio is ready at http://[^:]+:(\d+)")
_QUESTIONS = Path(__file__).parents[1] / "src/palio/demo/questions.txt"


def read_questions(path: str | None) -> list[str]:
    """One question a line; of a tab-separated file the last column. Ours if no file is named."""
    lines = Path(path or _QUESTIONS).read_text("utf-8").splitlines()
    return [line.rsplit("\t", 1)[-1].strip() for line in lines if line.strip()]


def embedding_requests(questions: Sequence[str]) -> list[bytes]:
    """Each question as the bytes of a request."""
    return [
        post(
            "localhost",
            PATH,
            orjson.dumps({"model": MODEL, "input": question}),
            "application/json",
        )
        for question in questions
    ]


@contextmanager
def pinned_server(source: str = f"zoo:{MODEL}", *settings: str) -> Iterator[int]:
    """`palio serve` on the server's core, on any free port, which is given; its log thrown away.

    Settings are written as for --set; what is measured is measured with the defaults.
    """
    command = [sys.executable, "-m", "palio.cli", "serve", source, "--http-port", "0"]
    for setting in settings:
        command += ["--set", setting]
    with on_the_servers_core():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := _READY.search(line):
                yield int(found[1])
                break
        else:
            raise SystemExit(f"the server did not start: {' '.join(command)}")
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def on_the_servers_core() -> Iterator[None]:
    """What is started in here inherits the server's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stay_on_the_clients_core() -> None:
    """Keep this process off the server's core; refuse where there is only one."""
    if not {SERVER_CPU, CLIENT_CPU} <= os.sched_getaffinity(0):
        raise SystemExit("cores 0 and 1 are needed: one for the server, one for the client")
    os.sched_setaffinity(0, {CLIENT_CPU})


def machine_line() -> str:
    """The machine in a few words, for the top of every table."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


@dataclass(frozen=True)
class Seen:
    """What callers in a closed loop saw, warm-up not included."""

    summary: Summary

    @property
    def per_s(self) -> float:
        return self.summary.answered_per_s

    @property
    def mean_batch(self) -> float:
        return self.summary.mean_batch or 0.0

    @property
    def failed(self) -> int:
        return sum(self.summary.errors.values())

    def latency_ms(self, percent: float) -> float:
        return next(q.latency_ms for q in self.summary.latency if q.percent == percent)


def ask(port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> Seen:
    """A closed loop against a server on this machine."""
    load = ClosedLoad(concurrency=concurrency, duration_s=seconds, warmup_s=0.2)
    driven = drive_alone(Target(host="127.0.0.1", port=port), finished(requests), load)
    until = int(driven.attempts.intended.max()) + 1
    return Seen(summarise(driven.attempts, load, driven.warmup_ns, until))


def median_of(values: Sequence[float]) -> str:
    """The median, with the least and the most."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
