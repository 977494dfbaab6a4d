from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from palio.core.requests import Timings
from palio.telemetry import names
from palio.telemetry.cells import Spread
from palio.telemetry.metrics import Metrics

REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, _ = metrics.exposition()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def say(metrics: Metrics, code: str, timings: Timings | None = None) -> None:
    metrics.request(
        door="http",
        route="/v1/embeddings",
        model="m",
        code=code,
        bytes_in=10,
        bytes_out=20,
        timings=timings,
    )


ANSWERED = Timings(0, 1_000_000, 2_000_000, 12_000_000, 20_000_000, 21_000_000, 4, 1)


def test_everything_named_is_exported_and_nothing_else() -> None:
    metrics = Metrics(
        lambda: {"m": (3, 1)}, lambda: [({"model": "m"}, True)], lambda: {"m": 1}, lambda: 2
    )
    say(metrics, "OK", ANSWERED)
    say(metrics, "OVERLOADED")
    metrics.batch(
        model="m", rows=4, length=10, useful=30, took_ns=8_000_000, isolation_runs=2, error=""
    )
    body, _ = metrics.exposition()
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    for metric in (*names.METRICS, *names.ALIASES):
        family = families.pop(metric.name.removesuffix("_total"), None)
        assert family is not None, f"{metric.name} is named but not exported"
        assert family.type == metric.kind
        assert family.documentation == metric.meaning
        (sample, *_) = family.samples
        assert set(sample.labels) - {"le"} == set(metric.labels)
    assert all(name.startswith(("process_", "python_")) for name in families), families.keys()


def test_the_stages_of_an_answer_add_up_to_the_whole() -> None:
    metrics = Metrics()
    say(metrics, "OK", ANSWERED)
    values = scraped(metrics)
    stages = [v for (name, _), v in values.items() if name == "inf_stage_seconds_sum"]
    (whole,) = (v for (name, _), v in values.items() if name == "inf_request_seconds_sum")
    assert len(stages) == 5
    assert sum(stages) == pytest.approx(whole) == pytest.approx(0.021)


def test_a_refusal_counts_as_a_refusal_and_not_as_a_fast_answer() -> None:
    metrics = Metrics()
    say(metrics, "OVERLOADED", Timings(0, 1))
    values = scraped(metrics)
    assert values["inf_rejected_total", (("model", "m"), ("reason", "OVERLOADED"))] == 1
    assert not any(name.startswith("inf_request_seconds") for name, _ in values)
    assert values["batcher_requests_total", (("status", "error"),)] == 1


def test_a_new_one_starts_at_zero() -> None:
    used = Metrics()
    say(used, "OK", ANSWERED)
    assert ("batcher_requests_total", (("status", "success"),)) in scraped(used)
    assert scraped(Metrics())["batcher_requests_total", (("status", "success"),)] == 0


def test_aliases_answer_with_the_same_figures() -> None:
    metrics = Metrics(lambda: {"a": (3, 1), "b": (4, 0)})
    for model, rows in (("a", 2), ("a", 8), ("b", 2)):
        metrics.batch(
            model=model, rows=rows, length=1, useful=rows, took_ns=10**7, isolation_runs=0, error=""
        )
    values = scraped(metrics)
    assert values["batcher_batch_size_count", ()] == 3
    assert values["batcher_batch_size_sum", ()] == 12
    assert values["batcher_batch_size_bucket", (("le", "2.0"),)] == 2
    assert values["batcher_queue_size", ()] == 7
    assert values["batcher_inflight_batches", ()] == 1


def test_padding_is_the_share_of_places_nobody_needed() -> None:
    metrics = Metrics()
    metrics.batch(
        model="m", rows=4, length=10, useful=30, took_ns=1, isolation_runs=0, error="ValueError"
    )
    values = scraped(metrics)
    assert values["inf_padding_ratio_sum", (("model", "m"),)] == pytest.approx(0.25)
    assert values["inf_tokens_total", (("kind", "padding"), ("model", "m"))] == 10
    assert values["inf_batches_total", (("model", "m"), ("outcome", "ValueError"))] == 1


def test_a_bound_counts_what_falls_on_it() -> None:
    spread = Spread((1, 2))
    for value in (1, 1.5, 2, 3):
        spread.observe(value)
    assert spread.cumulative() == [("1.0", 1), ("2.0", 3), ("+Inf", 4)]


def test_the_reference_page_is_the_one_in_the_code() -> None:
    assert REFERENCE.read_text("utf-8") == names.reference_page()
