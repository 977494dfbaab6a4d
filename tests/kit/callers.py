"""Callers in a closed loop against a server on this machine, for tests that count batches."""

from __future__ import annotations

from collections.abc import Sequence

from palio.bench.attempts import Attempts
from palio.bench.drive import drive_alone
from palio.bench.load import ClosedLoad
from palio.bench.questions import finished, post
from palio.bench.summary import Summary, summarise
from palio.bench.target import Target


def post_json(path: str, body: bytes) -> bytes:
    """One POST with a JSON body, as bytes."""
    return post("localhost", path, body, "application/json")


def closed_loop(
    port: int, requests: Sequence[bytes], *, concurrency: int, seconds: float
) -> tuple[Attempts, Summary]:
    """Ask round and round; everything that was attempted, and what it comes to."""
    load = ClosedLoad(concurrency=concurrency, duration_s=seconds, warmup_s=0.0)
    driven = drive_alone(Target(host="127.0.0.1", port=port), finished(requests), load)
    until = int(driven.attempts.intended.max()) + 1
    return driven.attempts, summarise(driven.attempts, load, 0, until)
