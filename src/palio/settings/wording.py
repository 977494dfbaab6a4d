"""Says in our words what a value is and what pydantic found wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

# By how the type of the finding begins.
_NEEDS: Final = (
    ("int", "a whole number"),
    ("float", "a number"),
    ("bool", "true or false"),
    ("string", "text"),
    ("dict", "a mapping"),
    ("mapping", "a mapping"),
    ("dataclass", "a mapping"),
    ("none", "null"),
    ("finite", "a finite number"),
)
_BOUNDS: Final = {
    "greater_than_equal": ("≥", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("≤", "le"),
    "less_than": ("<", "lt"),
}
_LONGEST: Final = 60


def say(errors: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about one value, from the findings of every type it might have had."""
    if any(error["type"] == "missing" for error in errors):
        return "is missing"
    needs = list(dict.fromkeys(_need(error) for error in errors))
    got = repr(errors[0]["input"])
    if len(got) > _LONGEST:
        got = f"{got[:_LONGEST]}…"
    return f"must be {' or '.join(needs)} (got {got})"


def as_yaml(value: object) -> str:
    """A value on one line, as one would write it in the file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_yaml(each)}" for key, each in value.items()) + "}"
    return str(value)


def _need(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind == "literal_error":
        return str(error["ctx"]["expected"])
    if kind in _BOUNDS:
        sign, limit = _BOUNDS[kind]
        return f"{sign} {error['ctx'][limit]:g}"
    for start, need in _NEEDS:
        if kind.startswith(start):
            return need
    return f"otherwise: {error['msg']}"
