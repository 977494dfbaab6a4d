from __future__ import annotations

import io
import threading
from typing import Any

import orjson

from palio.telemetry.logs import Log, LogWriter
from palio.telemetry.names import LOG_KEYS


def lines_of(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_is_one_json_object_with_the_agreed_keys() -> None:
    stream = io.BytesIO()
    log = Log(LogWriter(stream))
    log.say("info", "ready", url="http://x\n{}")
    log.line("palio.access", "request", {"correlation_id": "a", "status": 200})
    try:
        raise ValueError("oh\nno")
    except ValueError as error:
        log.say("error", "fault", exc_info=error, correlation_id="b")
    log.close()
    ready, request, fault = lines_of(stream)
    for line in (ready, request, fault):
        assert {"timestamp", "level", "logger", "event", "service"} <= line.keys()
        assert line["service"] == "palio"
    assert (ready["event"], ready["url"]) == ("ready", "http://x\n{}")
    assert request.keys() <= LOG_KEYS.keys()
    assert fault["level"] == "error"
    assert "oh\nno" in fault["exception"]


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.BytesIO()
    log = Log(LogWriter(stream), level="warning")
    log.say("info", "chatter")
    log.say("warning", "news")
    log.close()
    assert [line["event"] for line in lines_of(stream)] == ["news"]


class StuckStream(io.BytesIO):
    """A pipe whose reader has stopped reading."""

    def __init__(self) -> None:
        super().__init__()
        self.is_free = threading.Event()
        self.is_waited_for = threading.Event()

    def write(self, data: Any) -> int:
        self.is_waited_for.set()
        self.is_free.wait()
        return super().write(data)


def test_a_reader_that_stalls_costs_lines_and_never_waiting() -> None:
    stream = StuckStream()
    writer = LogWriter(stream, capacity=10)
    writer.put({"n": 0})
    stream.is_waited_for.wait()
    for n in range(1, 101):
        writer.put({"n": n})
    assert writer.dropped == 90
    stream.is_free.set()
    writer.close()
    assert [line["n"] for line in lines_of(stream)] == list(range(11))


def test_a_reader_that_is_gone_is_counted_and_survived() -> None:
    stream = io.BytesIO()
    stream.close()
    writer = LogWriter(stream)
    writer.put({"n": 1})
    writer.close()
    assert writer.dropped == 1


def test_what_cannot_be_json_is_written_as_text() -> None:
    stream = io.BytesIO()
    writer = LogWriter(stream)
    writer.put({"lone": "\ud800", "object": object})
    writer.close()
    (line,) = lines_of(stream)
    assert "ud800" in line["lone"]
