"""The `data` of one tensor in JSON: flat or nested, checked element by element by datatype."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from palio.core.errors import BadRequest, NotAcceptable
from palio.core.tensors import BYTES, Array, Tensor, dtype_of
from palio.wire.json_form import read_form

# numpy's own bound on dimensions is 64; no model comes near this one.
_MAX_RANK: Final = 32
_MAX_SIZE: Final = 2**31 - 1
_FEW: Final = 32
_BOUND: Final = {2: 65504.0, 4: 3.4e38, 8: 1.7e308}
_BLANKS: Final = b" \t\r\n"

_ELEMENT: Final[dict[str, type]] = {"f": float, "i": int, "u": int, "b": bool, "O": str}


def read_data(raw: msgspec.Raw, datatype: str, shape: Sequence[int], field: str) -> Array:
    """Elements as an array of exactly `shape`; raises `BadRequest` naming the element."""
    dtype = dtype_of(datatype)
    count = check_shape(shape, f"{field}.shape")
    place = f"{field}.data"
    depth = _depth(raw)
    if depth > 1 and depth != len(shape):
        raise BadRequest(
            f"{place} is nested {depth} deep, but the shape has {len(shape)} dimensions",
            field=place,
        )
    elements: list[Any] = read_form(_decoder(dtype.kind, max(1, depth)), raw, place)
    if depth <= 1 and len(elements) != count:
        raise BadRequest(
            f"{place} has {len(elements)} elements, but shape {list(shape)} holds {count}",
            field=place,
        )
    try:
        data = _array(elements, dtype, depth)
        return data.reshape(tuple(shape)) if depth <= 1 else _agreeing(data, shape, place)
    except (OverflowError, FloatingPointError):
        raise BadRequest(f"{place}: a number does not fit into {datatype}", field=place) from None
    except ValueError:
        # Uneven nesting, or a shape numpy cannot address.
        raise BadRequest(f"{place} does not have the shape {list(shape)}", field=place) from None


def check_shape(shape: Sequence[int], field: str) -> int:
    """How many elements the shape holds; raises `BadRequest` for what no array can have."""
    if len(shape) > _MAX_RANK:
        raise BadRequest(f"{field} has more than {_MAX_RANK} dimensions", field=field)
    for index, size in enumerate(shape):
        if not 0 <= size <= _MAX_SIZE:
            place = f"{field}[{index}]"
            raise BadRequest(f"{place}: {size} is not a size a tensor can have", field=place)
    return prod(shape)


def plain_data(tensor: Tensor) -> Array | list[str]:
    """A tensor's elements, flat, in a form orjson writes.

    Raises:
        NotAcceptable: a BYTES element is not UTF-8, which JSON cannot hold.
    """
    flat = np.ascontiguousarray(tensor.data).reshape(-1)
    if tensor.datatype != BYTES:
        return flat
    try:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in flat]
    except UnicodeDecodeError:
        raise NotAcceptable(
            f"output {tensor.name!r} holds bytes that are not UTF-8, which JSON cannot carry"
        ) from None


def write_json(value: object) -> bytes:
    """JSON with arrays written straight from their memory; non-finite numbers become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _array(elements: list[Any], dtype: np.dtype[Any], depth: int) -> Array:
    if dtype.kind == "O":
        return np.array(_encoded(elements, depth), np.object_)
    if dtype.kind != "f" or (depth <= 1 and _fits(elements, dtype)):
        return np.array(elements, dtype)
    # Without this a number too large for the datatype would become infinity in silence.
    with np.errstate(over="raise"):
        return np.array(elements, dtype)


def _fits(elements: list[Any], dtype: np.dtype[Any]) -> bool:
    """Whether a few numbers surely fit: for them asking is quicker than `errstate` is."""
    if not 0 < len(elements) <= _FEW:
        return False
    bound = _BOUND[dtype.itemsize]
    return bool(-bound <= min(elements) and max(elements) <= bound)


def _encoded(elements: list[Any], depth: int) -> list[Any]:
    if depth <= 1:
        return [text.encode() for text in elements]
    return [_encoded(inner, depth - 1) for inner in elements]


def _agreeing(data: Array, shape: Sequence[int], place: str) -> Array:
    if data.shape != tuple(shape):
        raise BadRequest(f"{place} does not have the shape {list(shape)}", field=place)
    return data


def _depth(raw: msgspec.Raw) -> int:
    """How many lists open before the first element."""
    depth = 0
    for byte in memoryview(raw):
        if byte == 0x5B and depth <= _MAX_RANK:
            depth += 1
        elif byte not in _BLANKS:
            break
    return depth


@lru_cache(maxsize=len(_ELEMENT) * _MAX_RANK)
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    form: Any = _ELEMENT[kind]
    for _ in range(depth):
        form = list[form]
    return msgspec.json.Decoder(form)
