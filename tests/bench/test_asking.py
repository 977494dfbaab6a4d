from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import orjson
import pytest

from palio.bench.adapters import FormTemplate, JsonTemplate, Oip, OpenAIEmbeddings
from palio.bench.asking import Asking, Unreachable, adapter_for
from palio.bench.fetch import page, unreachable
from palio.bench.target import Target
from palio.bench.workloads import text_embed, toy
from palio.core.errors import SettingsError
from tests.bench.shady import nobody_home

pytestmark = pytest.mark.net

TEXTS, TENSORS = text_embed(count=4), toy()
TEXT = {"inputs": [{"name": "text", "datatype": "BYTES"}]}
TENSOR = {"inputs": [{"name": "x", "datatype": "FP32"}]}
HOUSE = {
    "/": {"models": {"minilm": {}, "toy": {}}},
    "/v2/models/minilm": TEXT,
    "/v2/models/toy": TENSOR,
}


@contextmanager
def telling(pages: Mapping[str, object]) -> Iterator[Target]:
    """A server that has these pages, JSON unless they are bytes, and no other."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = pages.get(self.path)
            body = found if isinstance(found, bytes) else orjson.dumps(found)
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Target(host="127.0.0.1", port=server.server_port)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def saying(answer: bytes, every_s: float = 0.0, unix: Path | None = None) -> Iterator[Target]:
    """A server of one connection: it says this, a byte at a time if told, and hangs up."""
    made = socket.socket(socket.AF_INET if unix is None else socket.AF_UNIX)
    made.bind(("127.0.0.1", 0) if unix is None else str(unix))
    made.listen()

    def serve() -> None:
        try:
            visitor, _ = made.accept()
        except OSError:
            return
        with visitor:
            visitor.recv(65_536)
            try:
                for at in range(len(answer)) if every_s else ():
                    visitor.sendall(answer[at : at + 1])
                    time.sleep(every_s)
                if not every_s:
                    visitor.sendall(answer)
            except OSError:
                return

    thread = Thread(target=serve)
    thread.start()
    try:
        if unix is None:
            yield Target(host="127.0.0.1", port=made.getsockname()[1])
        else:
            yield Target(unix_path=str(unix))
    finally:
        made.shutdown(socket.SHUT_RDWR)
        made.close()
        thread.join()


def test_the_one_model_that_takes_such_inputs_is_found() -> None:
    with telling(HOUSE) as target:
        texts = adapter_for(Asking(), TEXTS, target)
        tensors = adapter_for(Asking(), TENSORS, target)
        assert isinstance(texts, OpenAIEmbeddings)
        assert orjson.loads(texts.body(TEXTS, 0).content)["model"] == "minilm"
        assert isinstance(tensors, Oip)
        asked = tensors.body(TENSORS, 0)
    assert asked.path == "/v2/models/toy/infer"
    assert orjson.loads(asked.content)["inputs"][0]["name"] == "x"


def test_texts_can_be_asked_by_the_open_inference_protocol() -> None:
    with telling(HOUSE) as target:
        asked = adapter_for(Asking(way="oip"), TEXTS, target).body(TEXTS, 0)
    assert asked.path == "/v2/models/minilm/infer"
    assert orjson.loads(asked.content)["inputs"][0]["name"] == "text"


def test_a_model_that_was_named_is_not_looked_for() -> None:
    with telling({"/v2/models/other": TENSOR}) as target:
        asked = adapter_for(Asking(model="other"), TENSORS, target).body(TENSORS, 0)
        assert asked.path == "/v2/models/other/infer"
    named = adapter_for(Asking(model="other"), TEXTS, nobody_home())
    assert orjson.loads(named.body(TEXTS, 0).content)["model"] == "other"


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({"/": {"models": {"a": {}, "b": {}}}}, "it lists a, b"),
        ({"/": {"models": []}}, "it lists none"),
        ({"/": ["models"]}, "it lists none"),
        ({"/": b"<html>"}, "it lists none"),
        ({}, "it lists none"),
    ],
)
def test_a_server_that_does_not_say_which_model_is_not_guessed_at(
    pages: Mapping[str, object], said: str
) -> None:
    with telling(pages) as target, pytest.raises(SettingsError, match=said):
        adapter_for(Asking(), TEXTS, target)


@pytest.mark.parametrize("inputs", [[], "x", ["x"], [{}], [{"datatype": "FP32"}], {"name": "x"}, 3])
def test_a_model_described_in_another_form_is_refused_in_a_sentence(inputs: object) -> None:
    pages = {"/v2/models/m": {"inputs": inputs}}
    with telling(pages) as target, pytest.raises(SettingsError, match="does not describe"):
        adapter_for(Asking(model="m"), TENSORS, target)


@pytest.mark.parametrize("asking", [Asking(), Asking(model="m"), Asking(way="oip", model="m")])
def test_a_server_that_refuses_cannot_be_asked_what_it_serves(asking: Asking) -> None:
    with pytest.raises(Unreachable, match="connection refused"):
        adapter_for(asking, TENSORS, nobody_home())


def test_a_template_is_plain_http_and_needs_no_server() -> None:
    made = adapter_for(Asking(path="/p", template='{"q": "{text}"}'), TEXTS, nobody_home())
    assert isinstance(made, JsonTemplate)
    assert orjson.loads(made.body(TEXTS, 1).content) == {"q": TEXTS.texts[1][0]}
    form = adapter_for(Asking(way="form", template="q={text}&n={n}"), TEXTS, nobody_home())
    assert isinstance(form, FormTemplate)
    content = form.body(TEXTS, 1).content
    assert content.count(b"form-data; name=") == 2
    assert TEXTS.texts[1][0].encode() in content


@pytest.mark.parametrize("way", ["json", "form"])
def test_plain_http_needs_a_template(way: str) -> None:
    with pytest.raises(SettingsError, match="--template"):
        adapter_for(Asking(way="json" if way == "json" else "form"), TEXTS, nobody_home())


def test_a_page_that_is_there_is_fetched_below_the_base_path() -> None:
    with telling({"/base/v2": b"here"}) as target:
        base = Target(host=target.host, port=target.port, base_path="/base")
        assert page(base, "/v2") == b"here"
        assert page(target, "/v2") is None


def test_a_page_comes_over_a_unix_socket_too(tmp_path: Path) -> None:
    with saying(b"HTTP/1.0 200 OK\r\n\r\nhere", unix=tmp_path / "sock") as target:
        assert unreachable(Target(unix_path=str(tmp_path / "none"))) == "no such file or directory"
        assert page(target, "/") == b"here"


@pytest.mark.parametrize(
    "answer", [b"", b"220 smtp\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_what_is_no_whole_page_is_none(answer: bytes) -> None:
    with saying(answer) as target:
        assert page(target, "/") is None


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_page_that_drips_is_given_up(head: bytes) -> None:
    with saying(head + b"x" * 100, every_s=0.02) as target:
        began = time.monotonic()
        assert page(target, "/", patience_s=0.2) is None
        assert time.monotonic() - began < 1.5
