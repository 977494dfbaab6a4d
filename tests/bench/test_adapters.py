from __future__ import annotations

from email import message_from_bytes
from typing import Any

import numpy as np
import orjson
import pytest

from palio.bench.adapters import (
    Adapter,
    FormTemplate,
    JsonTemplate,
    Oip,
    OpenAIEmbeddings,
    prepare,
)
from palio.bench.target import read_target
from palio.bench.workloads import Workload
from palio.core.errors import SettingsError
from palio.core.requests import InferRequest
from palio.wire.embeddings import read_embeddings
from palio.wire.oip_json import read_infer

NASTY = 'says "hi"\\ {n} and\nleaves {text}'
TEXTS = Workload(name="texts", texts=((NASTY,), ("zwei", "drei")))
TENSORS = Workload(
    name="tensors",
    tensors=(np.array([[1, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32)),
    expected=(np.array([[2, 4]], np.float32), np.array([[6, 8], [10, 12]], np.float32)),
)
TARGET = read_target("http://host:81/base")


def asked(adapter: Adapter, workload: Workload, input_id: int) -> tuple[bytes, bytes]:
    """The head and the body of a request."""
    head, _, body = prepare(adapter, workload, TARGET).requests[input_id].partition(b"\r\n\r\n")
    return head, body


def infer(body: bytes) -> InferRequest:
    return read_infer(
        body, model="m", version="", correlation_id="", first_read_ns=0, now_ns=lambda: 0
    )


def test_a_request_is_whole_http() -> None:
    head, body = asked(Oip("m", "x"), TENSORS, 0)
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /base/v2/models/m/infer HTTP/1.1"
    assert {"Host: host:81", f"Content-Length: {len(body)}"} <= set(lines)


def test_oip_tensors_are_read_as_they_were_meant() -> None:
    tensor = infer(asked(Oip("m", "x", version="3"), TENSORS, 1)[1]).inputs[0]
    assert (tensor.name, tensor.datatype) == ("x", "FP32")
    assert np.array_equal(tensor.data, TENSORS.tensors[1])
    assert b"/v2/models/m/versions/3/infer " in asked(Oip("m", "x", version="3"), TENSORS, 1)[0]


def test_oip_texts_are_bytes() -> None:
    tensor = infer(asked(Oip("m", "text"), TEXTS, 0)[1]).inputs[0]
    assert tensor.datatype == "BYTES"
    assert tensor.data.tolist() == [NASTY.encode()]


def test_openai_sends_one_text_as_such_and_several_as_a_list() -> None:
    for input_id, texts in enumerate(TEXTS.texts):
        body = asked(OpenAIEmbeddings("m"), TEXTS, input_id)[1]
        call = read_embeddings(body, max_items=10, max_text_chars=1000)
        assert (call.model, call.texts) == ("m", texts)
    assert orjson.loads(asked(OpenAIEmbeddings("m"), TEXTS, 0)[1])["input"] == NASTY


def test_openai_has_no_tensors() -> None:
    with pytest.raises(SettingsError):
        prepare(OpenAIEmbeddings("m"), TENSORS, TARGET)


def test_a_json_template_is_filled_once_and_escaped() -> None:
    template = JsonTemplate("/x", '{"q": "<{text}>", "all": {texts}, "id": {n}}')
    assert orjson.loads(asked(template, TEXTS, 0)[1]) == {
        "q": f"<{NASTY}>",
        "all": [NASTY],
        "id": 0,
    }


def test_a_json_template_takes_tensors() -> None:
    body = asked(JsonTemplate("/x", '{"instances": {data}}'), TENSORS, 1)[1]
    assert orjson.loads(body) == {"instances": [[3, 4], [5, 6]]}


def test_a_form_has_its_fields() -> None:
    form = FormTemplate("/x", [("text", "{text}"), ("id", "{n}"), ("kind", "fixed")])
    head, body = asked(form, TEXTS, 0)
    start = head.index(b"Content-Type:")
    message = message_from_bytes(head[start:] + b"\r\n\r\n" + body)
    fields = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.get_payload()
        if not isinstance(part, str)
    }
    assert fields == {"text": NASTY.encode(), "id": b"0", "kind": b"fixed"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: JsonTemplate("x", "{text}"),
        lambda: JsonTemplate("/x", "{}"),
        lambda: FormTemplate("/x", [("a", "b")]),
        lambda: prepare(JsonTemplate("/x", "{text}"), TEXTS, TARGET),
    ],
    ids=["path", "no place", "no place in the form", "not json"],
)
def test_a_template_of_no_use_is_refused(make: Any) -> None:
    with pytest.raises(SettingsError):
        make()


def oip_answer(*data: object, shape: list[int] | None = None, name: str = "y") -> bytes:
    output = {"name": name, "datatype": "FP32", "shape": shape or [1, len(data)], "data": data}
    return orjson.dumps({"model_name": "m", "outputs": [output]})


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (oip_answer(2.0, 4.0), True),
        (oip_answer(2.0, 4.00001), True),
        (oip_answer(2.0, 4.1), False),
        (oip_answer(2.0), False),
        (oip_answer(2.0, None), False),
        (oip_answer(2.0, 4.0, shape=[2, 2]), False),
        (oip_answer("2", "x"), False),
        (oip_answer(2.0, 4.0, name="z"), False),
        (b'{"outputs": []}', False),
        (b'{"error": "no"}', False),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_oip_answers_are_checked(answer: bytes, is_right: bool) -> None:
    assert prepare(Oip("m", "x", output="y"), TENSORS, TARGET).check(answer, 0) is is_right


def test_without_known_answers_any_whole_one_is_right() -> None:
    check = prepare(Oip("m", "text"), TEXTS, TARGET).check
    assert check(oip_answer(1.0, 2.0), 0)
    assert check(oip_answer("a"), 0)
    assert not check(oip_answer(None), 0)


def vectors(*rows: list[float] | None, order: list[int] | None = None) -> bytes:
    places = order or list(range(len(rows)))
    data = [{"index": at, "embedding": row} for at, row in zip(places, rows, strict=True)]
    return orjson.dumps({"object": "list", "data": data})


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (vectors([0.1, 0.2], [0.3, 0.4]), True),
        (vectors([0.1, 0.2]), False),
        (vectors([0.1, 0.2], [0.3]), False),
        (vectors([0.1, 0.2], [0.0, 0.0]), False),
        (vectors([0.1, 0.2], []), False),
        (vectors([0.1, 0.2], None), False),
        (vectors([0.1, 0.2], [0.3, 0.4], order=[1, 0]), False),
        (b"[]", False),
    ],
)
def test_embeddings_are_checked(answer: bytes, is_right: bool) -> None:
    assert prepare(OpenAIEmbeddings("m"), TEXTS, TARGET).check(answer, 1) is is_right


def test_templates_check_what_they_can() -> None:
    template = JsonTemplate("/x", '"{text}"', contains=b"ok")
    assert template.is_right(b'"ok"', TEXTS, 0)
    assert not template.is_right(b"ok", TEXTS, 0)
    assert not template.is_right(b'"no"', TEXTS, 0)
    form = FormTemplate("/x", [("a", "{text}")])
    assert form.is_right(b"anything", TEXTS, 0)
    assert not form.is_right(b"", TEXTS, 0)


def test_the_same_questions_have_the_same_hash() -> None:
    def digest(model: str) -> str:
        return prepare(Oip(model, "x"), TENSORS, TARGET).sha256

    assert digest("m") == digest("m") != digest("n")
