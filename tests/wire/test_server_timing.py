from __future__ import annotations

from palio.core.requests import Timings
from palio.wire.server_timing import server_timing


def test_all_stages() -> None:
    timings = Timings(1_000, 2_000, 4_500, 1_004_500, 3_004_500, 3_004_501, batch_rows=7)
    assert server_timing(timings) == (
        b"read;dur=0.001, tokenise;dur=0.003, queue;dur=1.000, compute;dur=2.000, "
        b'write;dur=0.000, batch;desc="7"'
    )


def test_only_the_stages_that_were_reached() -> None:
    assert server_timing(Timings(0, 1_000_000, 3_000_000)) == b"read;dur=1.000, tokenise;dur=2.000"
    assert server_timing(Timings()) == b""
