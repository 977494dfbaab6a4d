"""All inputs of a workload as finished requests, made before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from palio.bench.answers import Check
from palio.bench.schedule import I32, Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked: `requests[i]` is the i-th input's request, whole, as bytes on the wire.

    `rows` and `lengths` say how large each is, `check(body, i)` whether an answer to it is right,
    `sha256` which inputs these are. `name` is for people.
    """

    name: str
    requests: tuple[bytes, ...]
    rows: I32
    lengths: I32
    check: Check
    sha256: str

    def __post_init__(self) -> None:
        if not self.requests:
            raise ValueError("a workload without inputs")

    def nearest(self, sizes: Sizes) -> I32:
        """For each recorded size the input closest to it: in rows first, then in length."""
        asked = np.stack([sizes.rows, sizes.lengths], axis=1)
        distinct, which = np.unique(asked, axis=0, return_inverse=True)
        chosen = [self._closest(int(rows), int(length)) for rows, length in distinct]
        return np.array(chosen, np.int32)[which.reshape(-1)]

    def _closest(self, rows: int, length: int) -> int:
        apart = np.abs(self.rows.astype(np.int64) - rows) * 2**32
        return int(np.argmin(apart + np.abs(self.lengths.astype(np.int64) - length)))


def post(authority: str, path: str, body: bytes, content_type: str, headers: str = "") -> bytes:
    """One HTTP/1.1 POST as bytes; `headers` are further lines, each with its end."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: palio-bench\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


def finished(requests: Sequence[bytes], *, name: str = "requests") -> Questions:
    """Requests that are whole already, one row each; every answer to them counts as right."""
    ones = np.ones(len(requests), np.int32)
    return Questions(
        name=name,
        requests=tuple(requests),
        rows=ones,
        lengths=ones,
        check=lambda _answer, _input_id: True,
        sha256=sha256(b"\0".join(requests)).hexdigest(),
    )
