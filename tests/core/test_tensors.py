from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from palio.core.errors import BadRequest
from palio.core.tensors import (
    DATATYPES,
    Tensor,
    TensorSpec,
    count_of,
    datatype_of,
    dtype_of,
    pack,
    unpack,
)

PLAIN = [name for name in DATATYPES if name not in {"BF16", "BYTES"}]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@given(data=st.data(), datatype=st.sampled_from(PLAIN), shape=SHAPES)
def test_what_is_packed_comes_back(
    data: st.DataObject, datatype: str, shape: tuple[int, ...]
) -> None:
    array = data.draw(hnp.arrays(dtype_of(datatype), shape))
    assert datatype_of(array) == datatype
    back = unpack("x", datatype, shape, pack(Tensor("x", datatype, array)))
    np.testing.assert_array_equal(back.data, array)
    assert back.shape == shape


@given(items=st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_come_back(items: list[bytes]) -> None:
    array = np.empty(len(items), np.object_)
    array[:] = items
    back = unpack("x", "BYTES", [len(items)], pack(Tensor("x", "BYTES", array)))
    assert list(back.data) == items


@given(value=st.floats(width=32))
def test_bfloat16_rounds_to_the_nearest(value: float) -> None:
    data = np.array([value], np.float32)
    (back,) = unpack("x", "BF16", [1], pack(Tensor("x", "BF16", data))).data
    if np.isnan(data[0]):
        assert np.isnan(back)
    elif np.isfinite(back):
        assert abs(float(back) - float(data[0])) <= max(abs(float(data[0])) * 2**-8, 1e-40)
    else:
        assert abs(float(data[0])) > 3.38e38


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "complaint"),
    [
        ("FP32", [2], b"\0" * 7, "8 bytes, but 7 came"),
        ("FP32", [-1], b"", "negative"),
        ("FP99", [1], b"\0", "not a datatype"),
        ("BOOL", [1], b"\2", "0 or 1"),
        ("BYTES", [1], b"\1\0\0", "ends before element 0"),
        ("BYTES", [1], struct.pack("<I", 2**31), "claims 2147483648 bytes"),
        ("BYTES", [1], struct.pack("<I", 0) + b"x", "follow the last"),
    ],
)
def test_lying_bytes_are_refused(
    datatype: str, shape: list[int], raw: bytes, complaint: str
) -> None:
    with pytest.raises(BadRequest, match=complaint):
        unpack("x", datatype, shape, raw)


def test_text_arrays_are_bytes_and_odd_dtypes_have_no_name() -> None:
    assert datatype_of(np.array(["a"])) == "BYTES"
    with pytest.raises(BadRequest, match="complex128"):
        datatype_of(np.zeros(1, np.complex128))


def test_a_free_axis_takes_any_size() -> None:
    spec = TensorSpec("x", "FP32", (-1, 4))
    assert spec.accepts((7, 4))
    assert not spec.accepts((7, 5))
    assert not spec.accepts((4,))
    assert count_of((2, 0, 5)) == 0
