from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from palio.bench.schedule import read_trace
from palio.telemetry.arrivals import ArrivalWriter
from tests.app.process import PATIENCE_S, TOY_INFER, run_palio, serving, toy_rows

ALLOWED = {"at_ms", "route", "model", "rows", "length", "tokens", "bytes_in"}
INFER = "/v2/models/{model}/infer"


class Kept(io.BytesIO):
    """A file whose content outlives it."""

    content = b""

    def close(self) -> None:
        self.content = self.getvalue()
        super().close()


def lines_of(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in content.splitlines()]


def put(writer: ArrivalWriter, arrived_ms: float, *, rows: int = 1, tokens: int = 0) -> None:
    writer.put(
        int(arrived_ms * 1e6),
        route="/v1/embeddings",
        model="m",
        rows=rows,
        length=tokens * 5,
        tokens=tokens,
        bytes_in=9,
    )


def test_arrivals_count_from_the_first_that_was_over() -> None:
    stream = Kept()
    writer = ArrivalWriter(stream)
    put(writer, 5_000.0, rows=2, tokens=7)
    # It came earlier and took longer.
    put(writer, 4_999.5)
    # It was refused before anybody counted.
    put(writer, 5_001.25, rows=0)
    writer.close()
    assert stream.closed
    common = {"route": "/v1/embeddings", "model": "m", "bytes_in": 9}
    assert lines_of(stream.content) == [
        {"at_ms": 0.0, **common, "rows": 2, "length": 35, "tokens": 7},
        {"at_ms": -0.5, **common, "rows": 1},
        {"at_ms": 1.25, **common},
    ]


def test_a_recording_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    writer = ArrivalWriter(path.open("xb"))
    for arrived_ms, rows in ((5_000.0, 2), (4_999.5, 1), (5_001.25, 0)):
        put(writer, arrived_ms, rows=rows)
    writer.close()
    at_ms, _ = read_trace(path)
    assert at_ms.tolist() == [0.0, 0.5, 1.75]


def test_what_a_disk_does_not_take_is_counted() -> None:
    stream = io.BytesIO()
    writer = ArrivalWriter(stream)
    stream.close()
    put(writer, 1.0)
    writer.close()
    assert writer.dropped == 1


@pytest.mark.wire
def test_a_server_writes_down_when_and_how_much_and_never_what(tmp_path: Path) -> None:
    secret = "SECRET"  # noqa: S105  (a word to look for)
    file = tmp_path / "arrivals.jsonl"
    with serving(tmp_path, "zoo:toy", "--record-arrivals", "arrivals.jsonl") as served:
        headers = {"X-Correlation-ID": f"{secret}-id", "Authorization": secret, "X-Other": secret}
        bodies = [toy_rows(123456.75), toy_rows(1.0, 2.0, 98765.5), {"inputs": secret, secret: 1}]
        for body in bodies:
            served.ask(f"{TOY_INFER}?{secret}={secret}", body, headers)
        for path in (f"/v2/models/{secret}/infer", f"/{secret}", "/v1/embeddings"):
            served.ask(path, {"input": secret, "model": secret}, headers)
        for path in ("/health", "/metrics", "/v2/models/toy"):
            served.ask(path)
        assert served.stop() == 0
    content = file.read_bytes()
    for word in (secret, "123456", "98765", "127.0.0.1"):
        assert word.encode() not in content
    lines = lines_of(content)
    assert {key for line in lines for key in line} <= ALLOWED
    assert [line.get("rows") for line in lines] == [1, 3, None]
    assert {(line["route"], line["model"]) for line in lines} == {(INFER, "toy")}
    # Headers and all; the headers of the three are equally long, but for a digit.
    beside = {
        line["bytes_in"] - len(json.dumps(body)) for line, body in zip(lines, bodies, strict=True)
    }
    assert max(beside) - min(beside) <= 1
    times = [line["at_ms"] for line in lines]
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] < PATIENCE_S * 1e3
    assert len(read_trace(file)[0]) == 3


@pytest.mark.wire
def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"precious")
    for name, reason in (("there", "file exists"), ("no/such", "no such file or directory")):
        ended = run_palio(tmp_path, "serve", "zoo:toy", "--record-arrivals", name)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert f"telemetry.record_arrivals: cannot begin {name}: {reason}" in line
    assert (tmp_path / "there").read_bytes() == b"precious"


@pytest.mark.wire
def test_without_being_asked_nothing_is_recorded(tmp_path: Path) -> None:
    with serving(tmp_path, "zoo:toy") as served:
        assert served.ask(TOY_INFER, toy_rows(1.0)).status == 200
        assert served.stop() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["stderr.log"]
