"""Every metric's name, meaning, labels and buckets, and every key of a log line, in one place.

docs/reference/metrics.md is generated from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
RATIOS: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family: what it is called, what it counts, and by what it is split."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS: Final = Metric(
    "inf_requests_total",
    "counter",
    "Requests answered, by outcome: OK or the error's code.",
    ("door", "route", "model", "code"),
)
REQUEST_SECONDS: Final = Metric(
    "inf_request_seconds",
    "histogram",
    "From the first byte read to the answer's last write, of inference requests answered OK.",
    ("door", "model"),
    SECONDS,
)
STAGE_SECONDS: Final = Metric(
    "inf_stage_seconds",
    "histogram",
    "Where an answer's time went: read, tokenise, queue, compute, write. They add up.",
    ("model", "stage"),
    SECONDS,
)
BATCH_ROWS: Final = Metric(
    "inf_batch_size", "histogram", "Rows in each batch that ran.", ("model",), ROWS
)
BATCHES: Final = Metric(
    "inf_batches_total",
    "counter",
    "Batches that ran, by outcome: OK or the name of the error the model raised.",
    ("model", "outcome"),
)
BATCH_SECONDS: Final = Metric(
    "inf_batch_seconds",
    "histogram",
    "How long each batch was computed, stacking and splitting included.",
    ("model",),
    SECONDS,
)
PADDING: Final = Metric(
    "inf_padding_ratio",
    "histogram",
    "Share of a batch's places that were padding.",
    ("model",),
    RATIOS,
)
PLACES: Final = Metric(
    "inf_tokens_total",
    "counter",
    "Places computed, by kind: useful or padding. For models without a length a place is a row.",
    ("model", "kind"),
)
REJECTED: Final = Metric(
    "inf_rejected_total",
    "counter",
    "Requests refused before they reached a model, by the error's code.",
    ("model", "reason"),
)
ISOLATION: Final = Metric(
    "inf_isolation_runs_total",
    "counter",
    "Extra runs spent on finding a bad row in a batch.",
    ("model",),
)
QUEUE_ROWS: Final = Metric("inf_queue_depth", "gauge", "Rows waiting for a worker now.", ("model",))
RUNNING: Final = Metric("inf_inflight_batches", "gauge", "Batches being computed now.", ("model",))
BYTES: Final = Metric(
    "inf_payload_bytes_total",
    "counter",
    "Bytes read and written, heads included, by direction: in or out.",
    ("door", "direction"),
)
READY: Final = Metric("inf_model_ready", "gauge", "1 while the model answers.", ("model",))
INFO: Final = Metric(
    "inf_model_info",
    "gauge",
    "Always 1; the labels say which weights run, and how.",
    ("model", "version", "sha256", "weights", "backend", "device", "precision", "threads"),
)
TRUNCATED: Final = Metric(
    "inf_truncated_texts_total",
    "counter",
    "Texts cut to the longest the model reads; the rest of them did not count.",
    ("model",),
)
LOG_DROPPED: Final = Metric(
    "inf_log_lines_dropped_total",
    "counter",
    "Log lines thrown away because the writer could not keep up.",
)

METRICS: Final = (
    REQUESTS, REQUEST_SECONDS, STAGE_SECONDS, BATCH_ROWS, BATCHES, BATCH_SECONDS, PADDING, PLACES,
    REJECTED, ISOLATION, QUEUE_ROWS, RUNNING, BYTES, TRUNCATED, READY, INFO, LOG_DROPPED,
)  # fmt: skip

# The names an existing dashboard of one of the published systems asks for, and what answers them.
ALIASES: Final = (
    Metric("batcher_requests_total", "counter", "As inf_requests_total, over models.", ("status",)),
    Metric("batcher_batch_size", "histogram", "As inf_batch_size, over models.", buckets=ROWS),
    Metric(
        "batcher_request_latency_seconds",
        "histogram",
        "As inf_request_seconds, over models.",
        buckets=SECONDS,
    ),
    Metric(
        "batcher_batch_wait_time_seconds",
        "histogram",
        "As inf_stage_seconds of the stage queue, over models.",
        buckets=SECONDS,
    ),
    Metric(
        "batcher_inference_time_seconds",
        "histogram",
        "As inf_batch_seconds, over models.",
        buckets=SECONDS,
    ),
    Metric("batcher_queue_size", "gauge", "As inf_queue_depth, over models."),
    Metric("batcher_inflight_batches", "gauge", "As inf_inflight_batches, over models."),
)

LOG_KEYS: Final = {
    "timestamp": "when, UTC, ISO 8601 with microseconds",
    "level": "debug, info, warning or error",
    "logger": "which part of Palio: palio.access, palio.batch, palio.server …",
    "event": "what happened; `request` on the one line each request gets",
    "service": "always palio",
    "correlation_id": "the request's id, as in the answer's X-Correlation-ID",
    "correlation_ids": "of a batch: the ids of the requests in it",
    "door": "http",
    "method": "the verb",
    "route": "the route's template, never the raw path",
    "model": "the model's name",
    "version": "the model's version",
    "status": "the protocol's status",
    "code": "OK or the error's code",
    "bytes_in": "bytes read, head included",
    "bytes_out": "bytes written, head included",
    "items": "texts or rows in the request",
    "tokens": "tokens read from text, padding not included",
    "batch_id": "which batch the (last) rows ran in",
    "batch_rows": "how many rows that batch had",
    "total_ms": "first byte read to last write",
    "stages_ms": "the same time, by stage",
    "peer": "the caller's address",
    "rows": "of a batch: its rows",
    "length": "of a batch: what its rows were padded to",
    "took_ms": "of a batch: how long it ran",
    "worker": "of a batch: which worker ran it",
    "error": "what went wrong, where something did",
    "exception": "of a fault of our own: the traceback",
    "url": "of `ready`: where it listens",
    "unanswered": "of a drain that ran out of time: how many were cut off",
}


def reference_page() -> str:
    """docs/reference/metrics.md, from the tables above."""
    lines = [
        "<!-- Written from palio/telemetry/names.py by `make docs`; do not edit. -->",
        "",
        "# Metrics and log keys",
        "",
        "`GET /metrics` gives the Prometheus text form. Times are in seconds.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
        *(_row(metric) for metric in METRICS),
        "",
        "Beside these come prometheus-client's own `process_*` and `python_info`.",
        "",
        "## Aliases",
        "",
        "The same figures under the names of the *High-Performance Inference API*'s dashboard.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
        *(_row(metric) for metric in ALIASES),
        "",
        "## Log lines",
        "",
        "One JSON object a line on standard error. Each request gets exactly one, with the event",
        "`request`; with `telemetry.batch_log: true` each batch gets one too.",
        "",
        "| key | meaning |",
        "|---|---|",
        *(f"| `{key}` | {meaning} |" for key, meaning in LOG_KEYS.items()),
        "",
    ]
    return "\n".join(lines)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "—"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"
