"""Counts what happens: one call for each finished request, one for each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from palio.core.requests import Timings
from palio.telemetry import names
from palio.telemetry.cells import Count, Spread, counts, spreads

# Codes of requests that were turned away before any model saw them.
_REJECTIONS = frozenset(
    {"OVERLOADED", "RATE_LIMIT_EXCEEDED", "DEADLINE_INFEASIBLE", "NOT_READY", "TOO_LARGE"}
)

ModelLabels = Mapping[str, str]
Gauges = Callable[[], Mapping[str, tuple[int, int]]]


class Metrics:
    """Everything this server counts; a new one starts at zero."""

    def __init__(
        self,
        queues: Gauges = dict,
        models: Callable[[], Iterable[tuple[ModelLabels, bool]]] = list,
        truncated: Callable[[], Mapping[str, int]] = dict,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        """The callables are asked only when somebody scrapes.

        Args:
            queues: for each model, rows waiting and batches running.
            models: for each model, the labels of `inf_model_info` and whether it answers.
            truncated: for each model, how many texts were cut to its limit.
            dropped_lines: how many log lines were thrown away.
        """
        self._queues = queues
        self._models = models
        self._truncated = truncated
        self._dropped_lines = dropped_lines
        self._requests = counts(names.REQUESTS)
        self._seconds = spreads(names.REQUEST_SECONDS)
        self._stages = spreads(names.STAGE_SECONDS)
        self._rows = spreads(names.BATCH_ROWS)
        self._batches = counts(names.BATCHES)
        self._batch_seconds = spreads(names.BATCH_SECONDS)
        self._padding = spreads(names.PADDING)
        self._places = counts(names.PLACES)
        self._rejected = counts(names.REJECTED)
        self._isolation = counts(names.ISOLATION)
        self._bytes = counts(names.BYTES)
        self._registry = CollectorRegistry()
        self._registry.register(_Scrape(self))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def request(
        self,
        *,
        door: str,
        route: str,
        model: str,
        code: str,
        bytes_in: int,
        bytes_out: int,
        timings: Timings | None,
    ) -> None:
        """One request is over. Latency is kept of answers only: a refusal is not a fast answer."""
        self._requests.at(door, route, model, code).add()
        if bytes_in:
            self._bytes.at(door, "in").add(bytes_in)
        self._bytes.at(door, "out").add(bytes_out)
        if code in _REJECTIONS:
            self._rejected.at(model, code).add()
        if timings is None or code != "OK":
            return
        began = timings.first_read_ns
        self._seconds.at(door, model).observe((timings.written_ns - began) / 1e9)
        stages = self._stages
        for stage, ended in (
            ("read", timings.read_ns),
            ("tokenise", timings.prepared_ns),
            ("queue", timings.taken_ns),
            ("compute", timings.computed_ns),
            ("write", timings.written_ns),
        ):
            stages.at(model, stage).observe((ended - began) / 1e9)
            began = ended

    def batch(
        self,
        *,
        model: str,
        rows: int,
        length: int,
        useful: int,
        took_ns: int,
        isolation_runs: int,
        error: str,
    ) -> None:
        """One batch ran."""
        self._rows.at(model).observe(rows)
        self._batches.at(model, error or "OK").add()
        self._batch_seconds.at(model).observe(took_ns / 1e9)
        places = rows * length
        self._padding.at(model).observe(1 - useful / places)
        self._places.at(model, "useful").add(useful)
        self._places.at(model, "padding").add(places - useful)
        if isolation_runs:
            self._isolation.at(model).add(isolation_runs)

    def exposition(self) -> tuple[bytes, str]:
        """The Prometheus text form, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def scrape(self) -> Iterator[Metric]:
        """Every family with its present values."""
        for counted in (
            self._requests,
            self._batches,
            self._places,
            self._rejected,
            self._isolation,
            self._bytes,
        ):
            yield _counter(counted.metric, counted.items())
        for spread in (
            self._seconds,
            self._stages,
            self._rows,
            self._batch_seconds,
            self._padding,
        ):
            yield _histogram(spread.metric, spread.items())
        yield from self._gauges()
        yield from self._aliases()

    def _gauges(self) -> Iterator[Metric]:
        queue, running, ready, info = (
            GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for metric in (names.QUEUE_ROWS, names.RUNNING, names.READY, names.INFO)
        )
        for model, (waiting, batches) in self._queues().items():
            queue.add_metric([model], waiting)
            running.add_metric([model], batches)
        for labels, is_ready in self._models():
            ready.add_metric([labels["model"]], int(is_ready))
            info.add_metric([labels.get(label, "") for label in names.INFO.labels], 1)
        dropped = CounterMetricFamily(names.LOG_DROPPED.name, names.LOG_DROPPED.meaning)
        dropped.add_metric([], self._dropped_lines())
        cut = CounterMetricFamily(
            names.TRUNCATED.name, names.TRUNCATED.meaning, labels=names.TRUNCATED.labels
        )
        for model, texts in self._truncated().items():
            cut.add_metric([model], texts)
        yield from (queue, running, ready, info, cut, dropped)

    def _aliases(self) -> Iterator[Metric]:
        requests, rows, latency, wait, compute, queue, running = names.ALIASES
        by_status = {"success": Count(), "error": Count()}
        for labels, count in self._requests.items():
            by_status["success" if labels[-1] == "OK" else "error"].add(count.value)
        yield _counter(requests, [((status,), count) for status, count in by_status.items()])
        waits = [cell for (_, stage), cell in self._stages.items() if stage == "queue"]
        for metric, parts in (
            (rows, list(self._rows.cells.values())),
            (latency, list(self._seconds.cells.values())),
            (wait, waits),
            (compute, list(self._batch_seconds.cells.values())),
        ):
            total = Spread(metric.buckets)
            for part in parts:
                total.merge(part)
            yield _histogram(metric, [((), total)])
        now = list(self._queues().values())
        for metric, value in (
            (queue, sum(waiting for waiting, _ in now)),
            (running, sum(batches for _, batches in now)),
        ):
            gauge = GaugeMetricFamily(metric.name, metric.meaning)
            gauge.add_metric([], value)
            yield gauge


class _Scrape(Collector):
    """What prometheus-client asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.scrape()

    def describe(self) -> Iterable[Metric]:
        return ()


def _counter(metric: names.Metric, cells: Iterable[tuple[tuple[str, ...], Count]]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, cell in cells:
        family.add_metric(labels, cell.value)
    return family


def _histogram(metric: names.Metric, cells: Iterable[tuple[tuple[str, ...], Spread]]) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, cell in cells:
        family.add_metric(labels, cell.cumulative(), cell.total)
    return family
