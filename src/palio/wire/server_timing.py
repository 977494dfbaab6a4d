"""Where an answer's time went, as the `Server-Timing` header says it (W3C Server Timing)."""

from __future__ import annotations

from palio.core.requests import Timings


def server_timing(timings: Timings) -> bytes:
    """The stages reached, in milliseconds, and how many rows ran together."""
    began, read, prepared, taken, computed, written = (
        timings.first_read_ns,
        timings.read_ns,
        timings.prepared_ns,
        timings.taken_ns,
        timings.computed_ns,
        timings.written_ns,
    )
    if read and prepared and taken and computed and written:
        # One format call: this line is written for every answer.
        return (
            b"read;dur=%.3f, tokenise;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f, "
            b'write;dur=%.3f, batch;desc="%d"'
        ) % (
            (read - began) / 1e6,
            (prepared - read) / 1e6,
            (taken - prepared) / 1e6,
            (computed - taken) / 1e6,
            (written - computed) / 1e6,
            timings.batch_rows,
        )
    parts = [f"{name};dur={ns / 1e6:.3f}" for name, ns in timings.stages_ns().items()]
    if timings.batch_rows:
        parts.append(f'batch;desc="{timings.batch_rows}"')
    return ", ".join(parts).encode()
