"""Reads off the classes which keys there are, so that nothing lists them twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from palio.settings.tree import Path, Settings

# Stands for any name in a path: `models.*.threads`.
ANY_NAME: Final = "*"


def fields_of(kind: Any) -> dict[str, Any] | None:
    """A class's keys and the type of each; None for what has no fixed keys."""
    kind = _bare(kind)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    hints = get_type_hints(kind, include_extras=True)
    keys = (each.name for each in dataclasses.fields(kind))
    # `origins` is about the settings and not one of them.
    return {name: hints[name] for name in keys if (kind, name) != (Settings, "origins")}


def named_by(kind: Any) -> Any | None:
    """The type of a mapping's values, where users choose the keys; None for anything else."""
    kind = _bare(kind)
    return get_args(kind)[1] if get_origin(kind) is Mapping else None


def patterns(kind: Any = Settings, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every path there can be, with `*` for a name users choose, and the type found there."""
    fields = fields_of(kind)
    for name, inner in (fields or {}).items():
        yield (*at, name), inner
        yield from patterns(inner, (*at, name))
    named = named_by(kind)
    if named is not None:
        yield (*at, ANY_NAME), named
        yield from patterns(named, (*at, ANY_NAME))


def description_of(kind: Any) -> str:
    """The sentence written beside a field."""
    for note in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        if text := getattr(note, "description", None):
            return str(text)
    return ""


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
