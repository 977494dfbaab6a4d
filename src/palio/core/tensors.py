"""Arrays with a name, and the Open Inference Protocol's words for what is in them.

Source of the datatype names and of the length-prefixed form of BYTES: KServe's Open Inference
Protocol, "Required API" (tensor data types) and its binary tensor data extension.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from palio.core.errors import BadRequest

Array: TypeAlias = npt.NDArray[Any]

BYTES: Final = "BYTES"
BF16: Final = "BF16"

_NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    # numpy has no bfloat16; inside the process such values are float32, which holds them exactly.
    BF16: np.dtype(np.float32),
    BYTES: np.dtype(np.object_),
}
_OIP: Final = {dtype: name for name, dtype in _NUMPY.items() if name != BF16}

DATATYPES: Final = tuple(_NUMPY)


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype that holds `datatype` in this process; raises `BadRequest` if unknown."""
    try:
        return _NUMPY[datatype]
    except KeyError:
        raise BadRequest(
            f"{datatype[:40]!r} is not a datatype; known are {', '.join(DATATYPES)}"
        ) from None


def datatype_of(array: Array) -> str:
    """The protocol's name for an array's dtype; text and byte arrays are BYTES."""
    if array.dtype.kind in "SUO":
        return BYTES
    try:
        return _OIP[array.dtype]
    except KeyError:
        raise BadRequest(f"arrays of {array.dtype} have no name in the protocol") from None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives under one name; -1 in the shape means any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a concrete shape fits this one."""
        return len(shape) == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array; `datatype` says how the protocol calls its elements.

    BYTES data is an object array of `bytes`; BF16 data is a float32 array.
    """

    name: str
    datatype: str
    data: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape


def pack_bytes(array: Array) -> bytes:
    """BYTES elements in row-major order, each behind its length as a little-endian uint32."""
    parts: list[bytes] = []
    for item in array.ravel():
        element = item if isinstance(item, bytes) else str(item).encode()
        parts += (struct.pack("<I", len(element)), element)
    return b"".join(parts)


def unpack_bytes(raw: bytes | memoryview, shape: Sequence[int]) -> Array:
    """The reverse of `pack_bytes`; raises `BadRequest` when lengths and shape disagree."""
    view = memoryview(raw)
    count = count_of(shape)
    out = np.empty(count, np.object_)
    at = 0
    for index in range(count):
        end = at + 4
        if end > len(view):
            raise BadRequest(f"BYTES data ends before element {index} of {count}")
        (size,) = struct.unpack_from("<I", view, at)
        at = end + size
        if at > len(view):
            raise BadRequest(f"BYTES element {index} claims {size} bytes, more than there are")
        out[index] = bytes(view[end:at])
    if at != len(view):
        raise BadRequest(f"{len(view) - at} bytes follow the last of {count} BYTES elements")
    return out.reshape(tuple(shape))


def pack(tensor: Tensor) -> bytes:
    """A tensor's elements as the protocol's raw little-endian bytes."""
    if tensor.datatype == BYTES:
        return pack_bytes(tensor.data)
    if tensor.datatype == BF16:
        return _to_bf16(tensor.data).tobytes()
    dtype = dtype_of(tensor.datatype)
    return np.ascontiguousarray(tensor.data, dtype.newbyteorder("<")).tobytes()


def unpack(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Raw little-endian bytes as a tensor, without a copy where the machine allows it.

    Raises:
        BadRequest: the shape is negative, or its size and the bytes disagree.
    """
    dtype = dtype_of(datatype)
    count = count_of(shape)
    if datatype == BYTES:
        return Tensor(name, datatype, unpack_bytes(raw, shape))
    item_bytes = 2 if datatype == BF16 else dtype.itemsize
    if len(raw) != count * item_bytes:
        raise BadRequest(
            f"{name}: {datatype} of shape {list(shape)} is {count * item_bytes} bytes, "
            f"but {len(raw)} came"
        )
    if datatype == BF16:
        bits = np.frombuffer(raw, np.dtype("<u2")).astype(np.uint32) << 16
        return Tensor(name, datatype, bits.view(np.float32).reshape(tuple(shape)))
    flat = np.frombuffer(raw, dtype.newbyteorder("<"))
    if datatype == "BOOL" and flat.view(np.uint8).max(initial=0) > 1:
        raise BadRequest(f"{name}: a BOOL is the byte 0 or 1")
    return Tensor(name, datatype, flat.reshape(tuple(shape)))


def count_of(shape: Sequence[int]) -> int:
    """How many elements a concrete shape has; raises `BadRequest` for a negative size."""
    count = 1
    for size in shape:
        if size < 0:
            raise BadRequest(f"shape {list(shape)} has a negative size")
        count *= size
    return count


def _to_bf16(data: Array) -> npt.NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded).astype(np.dtype("<u2"))
