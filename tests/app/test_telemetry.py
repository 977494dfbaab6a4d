"""What a server writes down about its work: its log and its metrics."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from palio.telemetry import names
from tests.app.process import (
    TOY_INFER,
    Served,
    metrics_of,
    samples_of,
    serving,
    toy_rows,
)
from tests.app.test_answers import json_bytes
from tests.app.test_life import wait_until_running
from tests.kit.answers import Answer
from tests.kit.callers import closed_loop, post_json
from tests.server.house import post

pytestmark = pytest.mark.wire

OWN_ID = re.compile(r"inf-[0-9a-f-]{36}")
ALWAYS = {"timestamp", "level", "logger", "event", "service"}
OF_A_REQUEST = {"correlation_id", "door", "method", "route", "status", "code", "peer"}


class Visit(NamedTuple):
    """What a server said to a few callers, and what it wrote down."""

    answers: dict[str, Answer]
    lines: list[dict[str, Any]]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The access lines of one of the answers."""
        mine = self.answers[name].headers["x-correlation-id"]
        return [line for line in self.requests if line["correlation_id"] == mine]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "request"]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """A server with a batch log, asked well and badly, and stopped."""
    folder = tmp_path_factory.mktemp("visit")
    options = ["--set", "telemetry.batch_log=true", "--set", "models.toy.options.fail_when=13"]
    with serving(folder, "zoo:toy", *options) as served:

        def infer(body: object, **headers: str) -> Answer:
            return served.ask(
                TOY_INFER, body, {name.replace("_", "-"): each for name, each in headers.items()}
            )

        answers = {
            "page": served.ask("/health", headers={"X-Correlation-ID": "page-1"}),
            "good": infer(toy_rows(1.0, 2.0), X_Correlation_ID="good-1"),
            "by another name": infer(toy_rows(1.0), X_Request_ID="other-1"),
            "traced": infer(
                toy_rows(1.0),
                traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            "nameless": infer(toy_rows(1.0)),
            "bad": infer(b"{", X_Correlation_ID="bad-1"),
            "failing": infer(toy_rows(13.0), X_Correlation_ID="failing-1"),
            "nowhere": served.ask("/nowhere?secret=1", headers={"X-Correlation-ID": "nowhere-1"}),
            "openai": served.ask(
                "/v1/embeddings", {"input": "a"}, {"X-Correlation-ID": "openai-1"}
            ),
            "oversized": infer(toy_rows(1.0), X_Correlation_ID="a" * 129),
            "longest": infer(toy_rows(1.0), X_Correlation_ID="a" * 128),
            "spaced": infer(toy_rows(1.0), X_Correlation_ID='one "two"'),
        }
        assert served.stop(signal.SIGTERM) == 0
        lines = served.log_lines()
    return Visit(answers, lines)


def test_every_line_of_the_log_is_json_with_agreed_keys_only(visit: Visit) -> None:
    assert visit.lines
    for line in visit.lines:
        assert set(line) >= ALWAYS
    unknown = {key for line in visit.lines for key in line} - set(names.LOG_KEYS)
    assert not unknown


def test_every_request_gets_exactly_one_line(visit: Visit) -> None:
    written = Counter(line["correlation_id"] for line in visit.requests)
    asked = Counter(answer.headers["x-correlation-id"] for answer in visit.answers.values())
    assert written == asked
    assert set(asked.values()) == {1}


def test_an_access_line_says_what_the_caller_was_told(visit: Visit) -> None:
    for name, answer in visit.answers.items():
        (line,) = visit.of(name)
        assert line["status"] == answer.status, name
        assert set(line) >= OF_A_REQUEST, name
    (good,) = visit.of("good")
    assert (good["model"], good["items"], good["code"]) == ("toy", 2, "OK")
    assert sum(good["stages_ms"].values()) == pytest.approx(good["total_ms"])
    (nowhere,) = visit.of("nowhere")
    assert "secret" not in nowhere["route"]


def test_one_id_is_in_the_header_the_error_the_access_line_and_the_batch_line(
    visit: Visit,
) -> None:
    failing = visit.answers["failing"]
    assert failing.status == 500
    assert failing.headers["x-correlation-id"] == "failing-1"
    assert failing.json["correlation_id"] == "failing-1"
    assert len(visit.of("failing")) == 1
    batches = [line for line in visit.lines if line["event"] == "batch"]
    (batch,) = [line for line in batches if "failing-1" in line["correlation_ids"]]
    assert (batch["error"], batch["rows"]) == ("ToyFailed", 1)
    (access,) = visit.of("good")
    (batch,) = [line for line in batches if "good-1" in line["correlation_ids"]]
    assert (batch["batch_id"], batch["rows"]) == (access["batch_id"], 2)


def test_whoever_names_a_request_in_any_of_the_three_ways_finds_that_name_again(
    visit: Visit,
) -> None:
    known = {name: answer.headers["x-correlation-id"] for name, answer in visit.answers.items()}
    assert known["by another name"] == "other-1"
    assert known["traced"] == "0af7651916cd43dd8448eb211c80319c"
    assert known["longest"] == "a" * 128
    assert OWN_ID.fullmatch(known["nameless"])


def test_every_failure_has_its_form_and_its_id(visit: Visit) -> None:
    for name, code in (("bad", "BAD_REQUEST"), ("nowhere", "NOT_FOUND")):
        body = visit.answers[name].json
        assert set(body) >= {"error", "detail", "code", "correlation_id"}
        assert (body["code"], body["correlation_id"]) == (code, f"{name}-1")
    body = visit.answers["openai"].json
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["correlation_id"] == "openai-1"


def test_a_name_that_is_too_long_or_not_clean_is_replaced(visit: Visit) -> None:
    for name in ("oversized", "spaced"):
        assert OWN_ID.fullmatch(visit.answers[name].headers["x-correlation-id"]), name


@pytest.mark.parametrize("name", [b"a\rb", b"a\nX-Evil: 1", b"a\r\n b", b"a\0b"])
def test_a_name_with_line_breaks_reaches_neither_an_answer_nor_the_log(
    tmp_path: Path, name: bytes
) -> None:
    with serving(tmp_path, "zoo:toy") as served:
        with served.open_socket() as caller:
            caller.sendall(
                b"GET /health HTTP/1.1\r\nHost: a\r\nX-Correlation-ID: " + name + b"\r\n\r\n"
            )
            answer = caller.recv(65_536)
        assert served.stop() == 0
        (line,) = [line for line in served.log_lines() if line["event"] == "request"]
    assert OWN_ID.fullmatch(line["correlation_id"])
    assert b"x-correlation-id: " + line["correlation_id"].encode() in answer.lower()
    assert b"evil" not in answer.lower()


@pytest.mark.parametrize(("key", "event"), [("access_log", "request"), ("batch_log", "batch")])
@pytest.mark.parametrize("on", [True, False])
def test_each_kind_of_line_can_be_switched(tmp_path: Path, key: str, event: str, on: bool) -> None:
    with serving(tmp_path, "zoo:toy", "--set", f"telemetry.{key}={str(on).lower()}") as served:
        served.ask(TOY_INFER, toy_rows(1.0))
        assert served.stop() == 0
        events = [line["event"] for line in served.log_lines()]
    assert (event in events) is on


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The metrics of a server that has seen good, bad and poisonous requests."""
    options = ("reject_when=13", "stall_when=7", "stall_ms=200")
    settings = [f"models.toy.options.{option}" for option in options] + ["models.toy.instances=1"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    with serving(tmp_path_factory.mktemp("page"), "zoo:toy", *arguments) as served:
        with served.open_socket() as caller:
            caller.sendall(post(TOY_INFER, json_bytes(toy_rows(7.0))))
            wait_until_running(served)
            # These two wait for it together, and one is bad.
            for row in (1.0, 13.0):
                caller.sendall(post(TOY_INFER, json_bytes(toy_rows(row))))
            for _ in range(3):
                read_one(served, caller.makefile("rb", buffering=0))
        assert served.ask(TOY_INFER, toy_rows(*[1.0] * 257)).status == 413
        yield served.ask("/metrics").body.decode()


def read_one(served: Served, stream: Any) -> None:
    """Read one answer off an unbuffered stream."""
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while length:
        length -= len(stream.read(length))


def test_every_metric_has_its_name_kind_and_labels_on_the_page(page: str) -> None:
    found = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    labels_of = {
        name: set(re.findall(r"(\w+)=", labels)) - {"le"}
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", page, re.MULTILINE)
    }
    for metric in (*names.METRICS, *names.ALIASES):
        assert found.get(metric.name) == metric.kind, metric.name
        sample = f"{metric.name}_sum" if metric.kind == "histogram" else metric.name
        assert sample in labels_of, metric.name
        assert labels_of[sample] == set(metric.labels), metric.name


def test_the_page_counts_what_happened(page: str) -> None:
    samples = samples_of(page)
    route = "/v2/models/{model}/infer"
    counts = {
        code: samples.get(
            f'inf_requests_total{{code="{code}",door="http",model="toy",route="{route}"}}'
        )
        for code in ("OK", "VALIDATION_ERROR", "TOO_LARGE")
    }
    assert counts == {"OK": 2, "VALIDATION_ERROR": 1, "TOO_LARGE": 1}
    assert samples['inf_rejected_total{model="toy",reason="TOO_LARGE"}'] == 1
    assert samples['inf_isolation_runs_total{model="toy"}'] >= 1
    # Failures have no latency.
    assert samples['inf_request_seconds_count{door="http",model="toy"}'] == 2


def test_the_stages_add_up_to_the_whole_and_the_count_to_what_the_clients_saw(
    tmp_path: Path,
) -> None:
    request = post_json(TOY_INFER, json_bytes(toy_rows(1.0)))
    with serving(tmp_path, "zoo:toy", "--set", "models.toy.options.base_ms=1") as served:
        attempts, _ = closed_loop(served.port, [request], concurrency=8, seconds=0.3)
        samples = metrics_of(served)
    whole = samples['inf_request_seconds_sum{door="http",model="toy"}']
    stages = {
        stage: samples[f'inf_stage_seconds_sum{{model="toy",stage="{stage}"}}']
        for stage in ("read", "tokenise", "queue", "compute", "write")
    }
    assert sum(stages.values()) == pytest.approx(whole, rel=0.05)
    assert stages["compute"] >= 0.001 * len(attempts)
    answered = samples['inf_request_seconds_count{door="http",model="toy"}']
    assert answered == len(attempts)
    assert attempts.is_good.all()
    # A client sees all of what the server saw, and the way there and back.
    seen = float(attempts.service_ms.sum()) / 1e3
    assert whole < seen


def test_a_new_process_counts_from_zero(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(tmp_path, "zoo:toy") as served:
            fresh = metrics_of(served)
            served.ask(TOY_INFER, toy_rows(1.0))
            used = metrics_of(served)
        counted = {
            name: value
            for name, value in fresh.items()
            if name.startswith(("inf_", "batcher_"))
            and not name.startswith(("inf_model_info", "inf_model_ready"))
        }
        assert set(counted.values()) <= {0}
        assert used['inf_request_seconds_count{door="http",model="toy"}'] == 1
