"""Says what is in effect, key by key, and who said so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from palio.settings.shape import fields_of
from palio.settings.tree import Path, Settings

DEFAULT: Final = "default"


class Effective(NamedTuple):
    """One setting: its key, its value, and the file and line, variable or flag it came from."""

    key: str
    value: object
    source: str


def explain(settings: Settings) -> list[Effective]:
    """Every setting in effect, in the order of the reference page."""
    return [
        Effective(".".join(path), value, settings.origins.get(path, DEFAULT))
        for path, value in leaves(settings)
    ]


def leaves(value: object, at: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value with its path; an empty mapping counts as one."""
    fields = fields_of(type(value))
    inner = {name: getattr(value, name) for name in fields} if fields is not None else value
    if not isinstance(inner, Mapping) or not inner:
        yield at, value
        return
    for name, each in inner.items():
        yield from leaves(each, (*at, str(name)))
