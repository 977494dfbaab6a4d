from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from palio.core.errors import BadRequest, TooLarge, ValidationFailed
from palio.core.requests import InferResponse, Timings
from palio.core.tensors import Tensor
from palio.wire.embeddings import WRITERS, EmbeddingsCall, Encoding, read_embeddings
from tests.kit.fake_inference import TEXT


def read(max_items: int = 4, max_text_chars: int = 10, **form: Any) -> EmbeddingsCall:
    body = json.dumps(form).encode()
    return read_embeddings(body, max_items=max_items, max_text_chars=max_text_chars)


def test_one_text_or_several() -> None:
    assert read(input="a") == EmbeddingsCall("", ("a",), "float", None)
    call = read(
        input=["a", "zoë"], model="m", encoding_format="base64", dimensions=8, user="u", new=[1]
    )
    assert call == EmbeddingsCall("m", ("a", "zoë"), "base64", 8)


def test_texts_reach_the_core_as_one_tensor() -> None:
    call = read(input=["a", "zoë"], dimensions=8)
    request = call.request("m", TEXT, correlation_id="c", first_read_ns=1, now_ns=lambda: 5)
    assert request.inputs[0].name == "text"
    assert request.inputs[0].data.tolist() == [b"a", "zoë".encode()]
    assert (request.model, request.first_read_ns, request.read_ns) == ("m", 1, 5)


@pytest.mark.parametrize(
    ("form", "kind", "field"),
    [
        ({"input": ""}, ValidationFailed, "input"),
        ({"input": " \t\u3000"}, ValidationFailed, "input"),
        ({"input": "x" * 11}, ValidationFailed, "input"),
        ({"input": ["a", "b", "c", " "]}, ValidationFailed, "input[3]"),
        ({"input": [1, 2]}, ValidationFailed, "input[0]"),
        ({"input": ["a", [1]]}, ValidationFailed, "input[1]"),
        ({"input": []}, ValidationFailed, "input"),
        ({"input": ["a"] * 5}, TooLarge, "input"),
        ({"input": "a", "encoding_format": "int8"}, ValidationFailed, "encoding_format"),
        ({"input": None}, BadRequest, "input"),
        ({"input": ["a", None]}, BadRequest, "input[1]"),
        ({"input": "a", "dimensions": "8"}, BadRequest, "dimensions"),
        ({"input": "a", "model": 3}, BadRequest, "model"),
        ({}, BadRequest, None),
    ],
)
def test_refusals_name_the_place(form: Any, kind: type[BadRequest], field: str | None) -> None:
    with pytest.raises(kind) as caught:
        read(**form)
    assert caught.value.field == field


def test_vectors_are_not_shortened() -> None:
    call = read(input="a", dimensions=4)
    with pytest.raises(ValidationFailed, match="have 8"):
        call.request("m", TEXT, correlation_id="", first_read_ns=0, now_ns=lambda: 0)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_both_encodings_hold_the_same_numbers(encoding: Encoding) -> None:
    vectors = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    response = InferResponse(
        model="m",
        version="1",
        id="",
        outputs=(Tensor("e", "FP32", vectors),),
        timings=Timings(),
        tokens=9,
    )
    body = json.loads(WRITERS[encoding](response))
    got = [row["embedding"] for row in body["data"]]
    if encoding == "base64":
        got = [np.frombuffer(base64.b64decode(row), "<f4").tolist() for row in got]
    assert np.array_equal(np.array(got, np.float32), vectors)
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
