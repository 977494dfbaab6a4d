"""A referee of another house: MLPerf LoadGen drives a server through our client, and keeps its own
times. Its percentiles must lie within our intervals.

LoadGen counts from the moment it meant to send; so do we, from the moment it told us to.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palio.bench.adapters import Oip, prepare
from palio.bench.answers import Answers
from palio.bench.flight import Flight
from palio.bench.intervals import interval
from palio.bench.ledger import Ledger
from palio.bench.target import Dialler, read_target
from palio.bench.wire_client import Line
from palio.bench.workloads import read_workload
from tests.app.process import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.wire,
    pytest.mark.skipif(
        importlib.util.find_spec("mlperf_loadgen") is None,
        reason="mlcommons-loadgen is not installed: it comes with palio[dev]",
    ),
]

QUERIES = 5_000
PER_S = 400
LINES = 64


class Refereed:
    """Owns the lines, as a run would, but asks when LoadGen says so."""

    def __init__(self, requests: tuple[bytes, ...]) -> None:
        self.ledger = Ledger(2 * QUERIES)
        self.answers = Answers(len(requests))
        self.flight = Flight()
        self.origin_ns = time.monotonic_ns()
        self.count = 0
        self.lost_lines = 0
        self._requests = requests
        self._free: list[Line] = []
        self._waiting: list[tuple[int, int]] = []
        self._asked: dict[Line, int] = {}

    def issue(self, query: int, sample: int, told_ns: int) -> None:
        """LoadGen says: now."""
        attempt, self.count = self.count, self.count + 1
        self.ledger.intended[attempt] = told_ns - self.origin_ns
        self.ledger.released[attempt] = time.monotonic_ns() - self.origin_ns
        self.ledger.input_id[attempt] = sample % len(self._requests)
        self._waiting.append((attempt, query))
        self._ask()

    def joined(self, line: Line) -> None:
        self._free.append(line)

    def freed(self, line: Line, now_ns: int) -> None:
        import mlperf_loadgen as lg

        lg.QuerySamplesComplete([lg.QuerySampleResponse(self._asked.pop(line), 0, 0)])
        self._free.append(line)
        self._ask()

    def lost(self, line: Line, now_ns: int, *, settled: bool) -> None:
        self.lost_lines += 1

    def _ask(self) -> None:
        while self._waiting and self._free:
            (attempt, query), line = self._waiting.pop(0), self._free.pop()
            self._asked[line] = query
            sample = int(self.ledger.input_id[attempt])
            line.ask(attempt, sample, self._requests[sample])


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="client")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def settings_of(lg: Any) -> Any:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.Server
    settings.mode = lg.TestMode.PerformanceOnly
    settings.server_target_qps = PER_S
    settings.server_target_latency_ns = 100_000_000
    settings.min_query_count = QUERIES
    settings.min_duration_ms = 0
    return settings


def percentile_of(summary: str, percent: float) -> float:
    """Milliseconds from LoadGen's own page."""
    (value,) = re.findall(rf"{percent:.2f} percentile latency \(ns\) +: (\d+)", summary)
    return int(value) / 1e6


def test_a_referee_sees_the_same_percentiles(tmp_path: Path) -> None:
    import mlperf_loadgen as lg

    with (
        serving(tmp_path, "zoo:toy", "--set", "models.toy.options.base_ms=20") as served,
        loop_in_a_thread() as loop,
    ):
        target = read_target(served.url)
        workload = read_workload("toy")
        questions = prepare(Oip("toy", "x"), workload, target)
        ours = Refereed(questions.requests)

        async def open_lines() -> list[Line]:
            dialler = await Dialler.of(target)
            lines = [await dialler.dial(lambda: Line(ours)) for _ in range(LINES)]
            for line in lines:
                ours.joined(line)
            return lines

        lines = asyncio.run_coroutine_threadsafe(open_lines(), loop).result(10)

        def issue(queries: list[Any]) -> None:
            told = time.monotonic_ns()
            for query in queries:
                loop.call_soon_threadsafe(ours.issue, query.id, query.index, told)

        system = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(
            len(workload), len(workload), lambda _samples: None, lambda _samples: None
        )
        logs = lg.LogSettings()
        logs.log_output.outdir = str(tmp_path)
        logs.log_output.copy_summary_to_stdout = False
        lg.StartTestWithLogSettings(system, library, settings_of(lg), logs)
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
        for line in lines:
            loop.call_soon_threadsafe(line.drop)
        attempts = ours.ledger.finish(
            ours.count, questions.requests, questions.rows, timeout_ns=10**10
        )
    summary = (tmp_path / "mlperf_log_summary.txt").read_text()
    assert ours.count >= QUERIES
    assert attempts.is_good.all()
    for percent in (90.0, 99.0):
        theirs = percentile_of(summary, percent)
        within = interval(attempts.latency_ms, percent)
        seen = float(np.percentile(attempts.latency_ms, percent))
        assert within is not None or percent == 99.0, "so many answers carry a p90"
        if within is None:
            # A machine that stalls makes p99 unsupported; then the figures must simply agree.
            assert theirs == pytest.approx(seen, rel=0.1)
        else:
            assert within.low <= theirs <= within.high, (percent, theirs, within, seen)
