"""Bytes sent in bad faith or by mistake: refused by name, never a crash, a hang or a 500."""

from __future__ import annotations

import json
from collections.abc import Callable

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palio.server.http import HttpDoor
from palio.server.limits import DoorLimits
from tests.kit.fake_inference import FakeInference
from tests.server.house import EMBED, GOOD, INFER, ROW, Hand, get, post, serving

HOST = b"Host: a\r\n"
CHUNKED = b"POST /v2/models/toy/infer HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "garbage words": b"hello world\r\n\r\n",
    "unknown method": b"FLY / HTTP/1.1\r\n" + HOST + b"\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "wrong version": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "http 0.9": b"GET /health\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "signed length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc",
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -3\r\n\r\nabc",
    "length in words": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: three\r\n\r\nabc",
    "endless length": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 9"
    + b"9" * 40
    + b"\r\n\r\n",
    "space before colon": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc",
    "folded": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
    "nul in value": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\x00c\r\n\r\n",
    "nul in name": b"GET / HTTP/1.1\r\n" + HOST + b"A\x00: b\r\n\r\n",
    "bare cr": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n",
    "odd coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"POST / HTTP/1.0\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size in words": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "chunk size signed": CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "chunk size endless": CHUNKED + b"f" * 20 + b"\r\n",
}
# What RFC 9112 leaves to the server and h11 lets pass: chunks that override a length, folded
# lines, chunks in HTTP/1.0, methods and versions nobody has heard of.
STRICTER_THAN_H11 = {
    "length and chunks",
    "chunks and length",
    "folded",
    "chunked in 1.0",
    "unknown method",
    "wrong version",
    "http 2",
    "http 0.9",
}
ACCEPTED = {
    "plain": get("/health"),
    "leading blank line": b"\r\n" + get("/health"),
    "empty value": get("/health", "X:"),
    "odd case": b"GET /health HTTP/1.1\r\nhOsT: a\r\n\r\n",
    "chunked": CHUNKED + b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n",
    "chunk extension": CHUNKED + b"%x;a=b\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\nX: y\r\n\r\n",
    "bytes above ascii": b"GET /health HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n",
}


def h11_accepts(data: bytes) -> bool:
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(data)
    try:
        while not isinstance(event := oracle.next_event(), h11.EndOfMessage):
            if event in (h11.NEED_DATA, h11.PAUSED):
                return False
    except h11.RemoteProtocolError:
        return False
    return True


@pytest.mark.anyio
@pytest.mark.net
@pytest.mark.parametrize("name", REFUSED)
async def test_bad_framing_is_refused_and_the_connection_closed(name: str) -> None:
    async with serving() as house:
        caller = await house.call()
        answer = await caller.ask(REFUSED[name] + get("/health", "X-Correlation-ID: smuggled"))
        assert (answer.status, answer.json["code"]) in ((400, "BAD_REQUEST"), (413, "TOO_LARGE"))
        assert answer.headers["connection"] == "close"
        assert await caller.is_hung_up(), "what follows must never be taken for a request"
        assert house.faults == []
        assert await house.answers_well()


@pytest.mark.anyio
@pytest.mark.net
@pytest.mark.parametrize("name", ACCEPTED)
async def test_good_framing_is_accepted(name: str) -> None:
    async with serving() as house:
        caller = await house.call()
        answer = await caller.ask(ACCEPTED[name])
        assert answer.status == 200
        assert (await caller.ask(get("/health"))).status == 200


def test_h11_agrees_but_where_we_are_stricter() -> None:
    assert {name for name in REFUSED if h11_accepts(REFUSED[name])} <= STRICTER_THAN_H11
    assert {name for name in ACCEPTED if not h11_accepts(ACCEPTED[name])} <= {"leading blank line"}


class Wire:
    """A transport in memory: thousands of hostile requests a second, and no room to hang in."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False

    def get_extra_info(self, _name: str) -> object:
        return None

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def ask(data: bytes) -> tuple[int, bytes]:
    """The status and body of the one answer to `data`, then a good question on a new connection."""
    hand = Hand()
    faults: list[BaseException] = []
    door = HttpDoor(
        FakeInference(hand),
        routes={"/v1/embeddings": "text"},
        limits=DoorLimits(),
        clock_now=hand,
        metrics=lambda: (b"", "text/plain"),
        on_exchange=lambda _record: None,
        on_fault=lambda error, _id: faults.append(error),
    )
    answers = []
    for sent in (data, post(INFER, GOOD)):
        wire, connection = Wire(), door._connect()
        connection.connection_made(wire)  # type: ignore[arg-type]  # all that is asked of one
        connection.data_received(sent)
        head, _, body = bytes(wire.written).partition(b"\r\n\r\n")
        answers.append((int(head.split()[1]), body))
        connection.connection_lost(None)
    assert faults == []
    assert answers[1][0] == 200
    return answers[0]


def refused(status_and_body: tuple[int, bytes]) -> bool:
    status, body = status_and_body
    return status in (400, 404, 413, 415, 422) and b"correlation_id" in body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
paths = st.sampled_from([INFER, EMBED])
quick = settings(deadline=None, max_examples=60)


@quick
@given(paths, st.binary(max_size=200))
def test_random_bytes(path: str, body: bytes) -> None:
    assert refused(ask(post(path, body)))


@quick
@given(paths, json_values)
def test_random_json(path: str, value: object) -> None:
    assert refused(ask(post(path, json.dumps(value).encode())))


@quick
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["x", ""]) | json_values,
            "shape": st.lists(st.integers(-(2**65), 2**65) | st.integers(-1, 5), max_size=5)
            | json_values,
            "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "fp32", ""]),
            "data": json_values,
            "parameters": json_values,
        },
    )
)
def test_tensors_that_are_nearly_right(tensor: dict[str, object]) -> None:
    status, _ = ask(post(INFER, json.dumps({"inputs": [{**ROW, **tensor}]}).encode()))
    assert status in (200, 400, 413, 422)


@quick
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
def test_truncated_and_overwritten_bodies(at: int, junk: bytes) -> None:
    assert refused(ask(post(INFER, GOOD[:at])))
    status, _ = ask(post(INFER, GOOD[:at] + junk + GOOD[at + len(junk) :]))
    assert status in (200, 400, 404, 413, 422)


@quick
@given(st.binary(max_size=300), st.booleans())
def test_random_first_bytes(data: bytes, starts_well: bool) -> None:
    begun = b"GET /health HTTP/1.1\r\n" if starts_well else b""
    wire, answered = begun + data + b"\r\n\r\n\r\n\r\n", False
    try:
        status, _ = ask(wire)
        answered = True
    except IndexError:
        status = 0  # still waiting for the rest, which the sweep bounds
    assert not answered or status in (200, 400, 404, 405, 411, 413, 431)


@pytest.mark.parametrize(
    "make",
    [
        lambda depth: b"[" * depth,
        lambda depth: b'{"inputs":' + b"[" * depth + b"]" * depth + b"}",
        lambda depth: b'{"x":' * depth,
        lambda depth: (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":'
            + b"[" * depth
            + b"1"
            + b"]" * depth
            + b"}]}"
        ),
        lambda depth: b'{"input":' + b"[" * depth + b"]" * depth + b"}",
    ],
    ids=["open", "inputs", "unknown", "data", "input"],
)
@pytest.mark.parametrize("depth", [3, 40, 1000, 100_000])
def test_deep_json(make: Callable[[int], bytes], depth: int) -> None:
    for path in (INFER, EMBED):
        assert refused(ask(post(path, make(depth))))


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1,1,1]}]}',
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1e999,1,1,1]}]}',
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1e39,1,1,1]}]}',
        b'{"inputs":[{"name":"\xff","shape":[1,4],"datatype":"FP32","data":[1,1,1,1]}]}',
        b'{"inputs":[{"name":"\\ud800","shape":[1,4],"datatype":"FP32","data":[1,1,1,1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}',
        b'{"input":"\xff"}',
        b'{"input":["\\udfff"]}',
    ],
)
def test_what_json_has_no_word_for(body: bytes) -> None:
    assert refused(ask(post(EMBED if b'"input":' in body else INFER, body)))
