from __future__ import annotations

import json

import numpy as np
import pytest

from palio.bench.adapters import prepare
from palio.bench.asking import Asking, adapter_for
from palio.bench.binary import OipBinary, read_outputs
from palio.bench.target import Target
from palio.bench.workloads import read_workload
from palio.core.tensors import Tensor, pack, unpack


def answer_with(*tensors: Tensor, **changes: object) -> bytes:
    """An answer as a server writes it."""
    raws = [pack(tensor) for tensor in tensors]
    outputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        | changes
        for tensor, raw in zip(tensors, raws, strict=True)
    ]
    return json.dumps({"model_name": "m", "outputs": outputs}).encode() + b"".join(raws)


Y = Tensor("y", "FP32", np.array([[1.5, -2.0]], np.float32))


def test_a_request_says_where_its_head_ends_and_its_tensor_begins() -> None:
    workload = read_workload("toy")
    body = OipBinary("m", "x").body(workload, 3)
    length = int(body.headers.partition(":")[2])
    head = json.loads(body.content[:length])
    (given,) = head["inputs"]
    raw = body.content[length:]
    assert given["parameters"]["binary_data_size"] == len(raw)
    back = unpack("x", given["datatype"], given["shape"], raw)
    np.testing.assert_array_equal(back.data, workload.tensors[3])
    assert head["parameters"] == {"binary_data_output": True}


def test_the_header_is_on_the_wire() -> None:
    questions = prepare(OipBinary("m", "x"), read_workload("toy"), Target(port=8000))
    head, _, content = questions.requests[0].partition(b"\r\n\r\n")
    (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"Inference-Header")]
    length = int(line.split(b":")[1])
    assert json.loads(content[:length])["inputs"][0]["name"] == "x"


def test_texts_travel_as_length_prefixed_bytes() -> None:
    workload = read_workload("text-embed", rows=2)
    body = OipBinary("m", "text").body(workload, 0)
    length = int(body.headers.partition(":")[2])
    back = unpack("text", "BYTES", [2], body.content[length:])
    assert [item.decode() for item in back.data] == list(workload.texts[0])


def test_answers_are_read_binary_or_mixed_with_json() -> None:
    (y,) = read_outputs(answer_with(Y))
    np.testing.assert_array_equal(y.data, Y.data)
    mixed = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]}
    (y,) = read_outputs(json.dumps({"outputs": [mixed]}).encode())
    np.testing.assert_array_equal(y.data, Y.data)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage",
        b"{}",
        b'{"outputs": []}',
        b'{"outputs": 7}',
        answer_with(Y)[:-1],
        answer_with(Y) + b"x",
        answer_with(Y, shape=[3, 2]),
        answer_with(Y, datatype="FP99"),
        answer_with(Tensor("y", "FP32", np.array([np.nan], np.float32))),
    ],
)
def test_what_is_no_answer_is_wrong(answer: bytes) -> None:
    assert not OipBinary("m", "x").is_right(answer, read_workload("toy"), 0)


def test_the_expected_answer_is_right_and_any_other_is_not() -> None:
    workload = read_workload("toy")
    right = np.array(workload.expected[0], np.float32)
    adapter = OipBinary("m", "x")
    assert adapter.is_right(answer_with(Tensor("y", "FP32", right)), workload, 0)
    assert not adapter.is_right(answer_with(Tensor("y", "FP32", right + 1)), workload, 0)


def test_it_can_be_asked_for_by_name_where_the_server_does_not_describe_itself() -> None:
    """A server that is not there is not asked: the model and its input are named."""
    asking = Asking(way="oip-binary", model="m", tensor="x")
    assert isinstance(adapter_for(asking, read_workload("toy"), Target(port=1)), OipBinary)
