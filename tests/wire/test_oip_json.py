from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palio.core.errors import BadRequest, NotAcceptable, ValidationFailed
from palio.core.requests import InferRequest, InferResponse, Timings
from palio.core.tensors import BF16, BYTES, DATATYPES, Tensor, dtype_of
from palio.wire.oip_json import read_infer, write_infer
from palio.wire.oip_metadata import model_metadata
from tests.kit.fake_inference import TEXT


def read(body: object) -> InferRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_infer(
        raw, model="m", version="2", correlation_id="c", first_read_ns=1, now_ns=lambda: 7
    )


def one(datatype: str, shape: list[int], data: Any, **rest: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return {"inputs": [tensor], **rest}


def answer(*tensors: Tensor, **rest: Any) -> Any:
    response = InferResponse(
        model="m", version="1", id=rest.pop("id", ""), outputs=tensors, timings=Timings(), **rest
    )
    return json.loads(write_infer(response))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [1, 2.5, -3e-3, 0]),
        ("FP16", [1, 2.5, 65504, 0]),
        ("BF16", [1, 2.5, 3, 0]),
        ("FP64", [1e300, 0, 1, 2]),
        ("INT8", [-128, 127, 0, 1]),
        ("UINT8", [0, 255, 1, 2]),
        ("INT64", [-(2**63), 2**63 - 1, 0, 1]),
        ("UINT64", [0, 2**64 - 1, 1, 2]),
        ("BOOL", [True, False, True, True]),
        ("BYTES", ["a", "zoë", "", "\x00"]),
    ],
)
def test_every_datatype_flat_and_nested(datatype: str, data: list[Any]) -> None:
    flat = read(one(datatype, [2, 2], data)).inputs[0]
    nested = read(one(datatype, [2, 2], [data[:2], data[2:]])).inputs[0]
    want = [item.encode() for item in data] if datatype == BYTES else data
    assert flat.data.dtype == dtype_of(datatype)
    assert flat.data.shape == nested.data.shape == (2, 2)
    assert np.array_equal(flat.data, nested.data)
    assert np.array_equal(flat.data.ravel(), np.array(want, flat.data.dtype))
    written = answer(Tensor("y", datatype, flat.data))["outputs"][0]
    assert (written["datatype"], written["shape"]) == (datatype, [2, 2])
    assert read({"inputs": [written]}).inputs[0].data.tolist() == flat.data.tolist()


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "field"),
    [
        ("FP32", [2], ["1", "2"], "inputs[0].data[0]"),
        ("FP32", [2], [1, None], "inputs[0].data[1]"),
        ("FP32", [1], [True], "inputs[0].data[0]"),
        ("FP32", [1], [1e39], "inputs[0].data"),
        ("FP32", [40], [1e39] * 40, "inputs[0].data"),
        ("FP16", [1], [65536], "inputs[0].data"),
        ("INT8", [1], [1.5], "inputs[0].data[0]"),
        ("INT8", [1], [128], "inputs[0].data"),
        ("UINT8", [1], [-1], "inputs[0].data"),
        ("INT64", [1], [2**63], "inputs[0].data"),
        ("INT32", [1], [True], "inputs[0].data[0]"),
        ("BOOL", [1], [1], "inputs[0].data[0]"),
        ("BYTES", [1], [1], "inputs[0].data[0]"),
        ("FP32", [3], [1, 2], "inputs[0].data"),
        ("FP32", [2, 2], [[1, 2], [3]], "inputs[0].data"),
        ("BYTES", [2, 2], [["a", "b"], ["c"]], "inputs[0].data"),
        ("FP32", [2, 2], [[1], [2], [3], [4]], "inputs[0].data"),
        ("FP32", [4], [[1, 2], [3, 4]], "inputs[0].data"),
        ("FP32", [2, 2], [[[1, 2], [3, 4]]], "inputs[0].data"),
        ("FP32", [-1], [1], "inputs[0].shape[0]"),
        ("FP32", [2**31], [1], "inputs[0].shape[0]"),
        ("FP32", [2**30, 2**30, 2**30], [1], "inputs[0].data"),
        ("FP32", [2**31 - 1, 2**31 - 1, 2**31 - 1, 0], [], "inputs[0].data"),
        ("FP32", [1] * 33, [1], "inputs[0].shape"),
        ("FP32", ["1"], [1], "inputs[0].shape[0]"),
        ("FP8", [1], [1], "inputs[0].datatype"),
        (1, [1], [1], "inputs[0].datatype"),
        ("FP32", [1], 1, "inputs[0].data"),
        ("FP32", [1], {"a": 1}, "inputs[0].data"),
    ],
)
def test_what_does_not_fit_is_named(datatype: Any, shape: Any, data: Any, field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(one(datatype, shape, data))
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"\xef\xbb\xbf{}", None),
        (b"[]", None),
        (b"{}", None),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, "inputs[0].data"),
        (
            {"inputs": [one("FP32", [1], [1])["inputs"][0]] * 2},
            "inputs[1].name",
        ),
        (one("FP32", [1], [1], id=5), "id"),
        (one("FP32", [1], [1], parameters={"a": [1]}), "parameters[...]"),
        (one("FP32", [1], [1], parameters={"timeout": "5"}), "parameters.timeout"),
        (one("FP32", [1], [1], parameters={"timeout": True}), "parameters.timeout"),
        (one("FP32", [1], [1], parameters={"priority": 1.5}), "parameters.priority"),
        (one("FP32", [1], [1], outputs=[{"name": "y"}, {"name": "y"}]), "outputs[1].name"),
        (
            one("FP32", [1], [1], outputs=[{"name": "y", "parameters": {"binary_data": True}}]),
            "outputs[0].parameters.binary_data",
        ),
        (
            one("FP32", [1], [1], outputs=[{"name": "y", "parameters": {"classification": 3}}]),
            "outputs[0].parameters.classification",
        ),
        (
            {
                "inputs": [
                    {
                        "name": "x",
                        "shape": [1],
                        "datatype": "FP32",
                        "parameters": {"binary_data_size": 4},
                    }
                ]
            },
            "inputs[0].parameters.binary_data_size",
        ),
    ],
)
def test_the_rest_of_the_form_is_checked_as_well(body: object, field: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert caught.value.field == field


@pytest.mark.parametrize("parameters", [{"timeout": -1}, {"priority": -1}, {"priority": 256}])
def test_unacceptable_values(parameters: dict[str, int]) -> None:
    with pytest.raises(ValidationFailed):
        read(one("FP32", [1], [1], parameters=parameters))


def test_everything_a_caller_may_say_reaches_the_core() -> None:
    request = read(
        one(
            "FP32",
            [1],
            [1],
            id="q",
            parameters={"timeout": 5, "priority": 2, "word": "w", "binary_data_output": True},
            outputs=[{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}],
            unknown={"ignored": [1]},
        )
    )
    assert (request.model, request.version, request.id, request.correlation_id) == (
        "m",
        "2",
        "q",
        "c",
    )
    assert (request.timeout_ns, request.priority, request.outputs) == (5000, 2, ("b", "a"))
    assert request.parameters["word"] == "w"
    assert (request.first_read_ns, request.read_ns) == (1, 7)
    assert read(one("FP32", [1], [1], parameters={"timeout": 0})).timeout_ns is None


def test_of_a_key_given_twice_the_last_counts() -> None:
    request = read(
        b'{"inputs":[],"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[9],"data":[3]}]}'
    )
    assert request.inputs[0].data.tolist() == [3]


def test_answers_in_json() -> None:
    numbers = np.array([[1.5, np.nan], [np.inf, 4]], np.float32)
    body = answer(
        Tensor("y", BF16, numbers),
        Tensor("z", BYTES, np.array([b"a", "b"], np.object_)),
        Tensor("w", "FP16", np.arange(4, dtype=np.float16)[::2]),
        Tensor("scalar", "INT64", np.array(3)),
        id="q",
        parameters={"p": 1},
    )
    data = {output["name"]: output["data"] for output in body["outputs"]}
    assert data == {"y": [1.5, None, None, 4], "z": ["a", "b"], "w": [0, 2], "scalar": [3]}
    assert (body["id"], body["parameters"]) == ("q", {"p": 1})
    assert body["outputs"][3]["shape"] == []


def test_bytes_that_are_not_text_have_no_form_in_json() -> None:
    with pytest.raises(NotAcceptable, match="'y'"):
        answer(Tensor("y", BYTES, np.array([b"\xff"], np.object_)))


def test_metadata_speaks_of_what_a_client_sends() -> None:
    body = json.loads(model_metadata("alias", TEXT))
    assert body["name"] == "alias"
    assert body["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


@given(
    st.sampled_from(DATATYPES),
    st.lists(st.integers(-3, 5), max_size=3),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    ),
)
def test_whatever_comes_is_read_as_its_shape_or_refused(
    datatype: str, shape: list[int], data: object
) -> None:
    try:
        tensor = read(one(datatype, shape, data)).inputs[0]
    except BadRequest:
        return
    assert list(tensor.shape) == shape
    assert tensor.data.dtype == dtype_of(datatype)
