"""Finds the name somebody probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_LIKE_ENOUGH: Final = 0.6
# A beginning this long says which name is meant.
_TELLING: Final = 3


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, as a whole or in one of its words; None if none is."""
    scored = [(_likeness(name, each), each) for each in known]
    best, found = max(scored, key=lambda pair: pair[0], default=(0.0, None))
    return found if best >= _LIKE_ENOUGH else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing: made to follow a sentence about an unknown name."""
    close = nearest(name, known)
    return f"; did you mean {close}?" if close else ""


def _likeness(name: str, known: str) -> float:
    """From 0 to 1. A word alone counts for a little less: `prot` is `http_port` before `host`."""
    if len(name) >= _TELLING and known.startswith(name):
        return 0.9
    words = known.split("_")
    whole = difflib.SequenceMatcher(None, name, known).ratio()
    part = max(difflib.SequenceMatcher(None, name, word).ratio() for word in words)
    return max(whole, 0.95 * part)
