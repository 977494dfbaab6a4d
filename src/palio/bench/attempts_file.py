"""`attempts.bin`: attempts in chunks, one after another, each with its length and checksum.

A write that was cut off spoils the chunk it was in and none before it. Columns lie whole within a
chunk, because that is how they are at hand: writing one costs a copy and no shuffling. Layout,
little-endian:

    file    "PALIOATT" u32 version u32 bytes-per-row | chunk chunk chunk …
    chunk   "CHNK" u32 rows u32 crc32-of-the-columns | the columns of `COLUMNS`, one after another
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from palio.bench.attempts import STAGES, Attempts
from palio.bench.manifest import UnreadableTrial

FILE: Final = "attempts.bin"
COLUMNS: Final[Mapping[str, str]] = {
    "intended": "<i8",
    "released": "<i8",
    "sent": "<i8",
    "first_byte": "<i8",
    "last_byte": "<i8",
    "status": "<i2",
    "fault": "u1",
    "bytes_out": "<i4",
    "bytes_in": "<i4",
    "input_id": "<i4",
    "rows": "<i4",
    "stages": "<f4",
    "batch": "<i2",
}
# How many figures one row has of those that are several.
_WIDE: Final = {"stages": len(STAGES)}
ROW_BYTES: Final = sum(
    np.dtype(kind).itemsize * _WIDE.get(name, 1) for name, kind in COLUMNS.items()
)

_FILE_HEAD: Final = struct.Struct("<8sII")
_MAGIC: Final = b"PALIOATT"
_VERSION: Final = 1
_CHUNK_HEAD: Final = struct.Struct("<4sII")
_CHUNK: Final = b"CHNK"


class Recovered(NamedTuple):
    """What a file holds; `torn` says what could not be used of it, and is empty if all could."""

    attempts: Attempts
    torn: str


def head() -> bytes:
    """How the file begins."""
    return _FILE_HEAD.pack(_MAGIC, _VERSION, ROW_BYTES)


def chunk(attempts: Attempts) -> bytes:
    """Some attempts as they lie in the file."""
    packed = b"".join(
        np.ascontiguousarray(getattr(attempts, name), kind).tobytes()
        for name, kind in COLUMNS.items()
    )
    return _CHUNK_HEAD.pack(_CHUNK, len(attempts), zlib.crc32(packed)) + packed


def read(path: Path) -> Recovered:
    """All whole chunks of a file up to the first that is not; no file is no attempts.

    The rows come in the order of intended time.

    Raises:
        UnreadableTrial: this is no such file, or of another version.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise UnreadableTrial(f"cannot read {path}: {error.strerror}") from error
    begun = content[: _FILE_HEAD.size]
    if not head().startswith(begun):
        raise UnreadableTrial(f"{path} does not begin as a file of attempts of version {_VERSION}")
    at = len(begun)
    chunks: list[Attempts] = [_from_columns(b"", 0, 0)]
    while (attempts := _chunk_at(content, at)) is not None:
        chunks.append(attempts)
        at += _CHUNK_HEAD.size + len(attempts) * ROW_BYTES
    whole = _in_order(chunks)
    left = len(content) - at if begun == head() else len(begun)
    return Recovered(whole, _sentence(left, len(whole)) if left else "")


def _chunk_at(content: bytes, at: int) -> Attempts | None:
    """The chunk that begins there, or None if there is no whole one."""
    begin = at + _CHUNK_HEAD.size
    if begin > len(content):
        return None
    mark, count, checksum = _CHUNK_HEAD.unpack_from(content, at)
    end = begin + count * ROW_BYTES
    if mark != _CHUNK or end > len(content):
        return None
    if zlib.crc32(memoryview(content)[begin:end]) != checksum:
        return None
    return _from_columns(content, begin, count)


def _from_columns(content: bytes, at: int, count: int) -> Attempts:
    columns: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        width = _WIDE.get(name, 1)
        column = np.frombuffer(content, kind, count * width, at) if count else np.empty(0, kind)
        at += column.nbytes
        columns[name] = column.reshape(count, width) if name in _WIDE else column
    return Attempts(**columns)


def _in_order(chunks: list[Attempts]) -> Attempts:
    """All rows by intended time, in this machine's byte order."""
    order = np.argsort(np.concatenate([each.intended for each in chunks]), kind="stable")
    columns: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        column = np.concatenate([getattr(each, name) for each in chunks])
        columns[name] = column[order].astype(np.dtype(kind).newbyteorder("="), copy=False)
    return Attempts(**columns)


def _sentence(left: int, rows: int) -> str:
    return (
        f"the last {left:,} bytes of {FILE} are no whole chunk, as when a run is cut off, and were "
        f"left out; the {rows:,} attempts before them are whole"
    )
