"""Lays one source of settings over another, remembering who said what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from palio.settings.tree import Path

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one source says, as nested mappings; `origins` holds where each path was said."""

    values: Values = field(default_factory=dict)
    origins: Mapping[Path, str] = field(default_factory=dict)

    def under(self, over: Layer) -> Layer:
        """This layer with `over` laid on it."""
        return Layer(
            values=deep_merge(self.values, over.values), origins={**self.origins, **over.origins}
        )


def deep_merge(base: Values, over: Values) -> dict[str, Any]:
    """Mappings are merged key by key; anything else, lists included, is replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = value
    return merged


def layer_of(path: Path, value: object, origin: str) -> Layer:
    """One value at one path, as a layer."""
    origins = dict.fromkeys(paths_of(value, path), origin)
    for name in reversed(path):
        value = {name: value}
    return Layer(values=value if isinstance(value, Mapping) else {}, origins=origins)


def paths_of(value: object, at: Path = ()) -> Iterator[Path]:
    """The path of every value in a nested mapping, the mappings' own included."""
    yield at
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from paths_of(inner, (*at, str(key)))
