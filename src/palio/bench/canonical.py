"""One way to write a value as JSON, so that equal values have equal hashes."""

from __future__ import annotations

import hashlib
import json


def canonical_json(value: object) -> bytes:
    """Keys sorted, no spaces, UTF-8; what JSON has no word for is refused.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: something is no JSON value.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_of(value: object) -> str:
    """The hash of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
