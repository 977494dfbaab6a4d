"""The id that ties one question's logs, answers and errors together, read or made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

# In order of preference; names as they come off the wire once lowered.
ID_HEADERS: Final = (b"x-correlation-id", b"x-request-id", b"traceparent")

_is_usable: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
_traceparent: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
).fullmatch

_ENTROPY_BLOCK: Final = 4096
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def read_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's own id: that of the first of the three headers which holds a usable one."""
    for name in ID_HEADERS:
        value = headers.get(name)
        if value is None:
            continue
        usable = _trace_id(value) if name == b"traceparent" else value
        if usable is not None and _is_usable(usable):
            return usable.decode()
    return None


def _trace_id(value: bytes) -> bytes | None:
    """The trace id of a valid `traceparent` (W3C Trace Context §3.2)."""
    found = _traceparent(value)
    if found is None:
        return None
    version, trace, parent, rest = found.groups()
    # Version 00 ends after the flags; later ones may say more.
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    return trace if trace.strip(b"0") and parent.strip(b"0") else None


class IdMint:
    """Makes ids of the form `inf-<uuid4>`, with the operating system's randomness in blocks."""

    __slots__ = ("_at", "_block", "_prefix")

    def __init__(self, prefix: str = "inf-") -> None:
        self._prefix = prefix
        self._block = ""
        self._at = 0

    def make(self) -> str:
        """One fresh id."""
        at = self._at
        if at == len(self._block):
            self._block = os.urandom(_ENTROPY_BLOCK).hex()
            at = 0
        self._at = at + 32
        block = self._block[at : at + 32]
        return (
            f"{self._prefix}{block[:8]}-{block[8:12]}-4{block[13:16]}-"
            f"{_VARIANT[block[16]]}{block[17:20]}-{block[20:]}"
        )
