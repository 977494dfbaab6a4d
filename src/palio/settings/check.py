"""Turns merged values into `Settings`, or says everything that is wrong with them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from palio.backends.nearest import did_you_mean, nearest
from palio.core.errors import SettingsError
from palio.settings.explain import leaves
from palio.settings.layers import Layer
from palio.settings.shape import ANY_NAME, fields_of, named_by, patterns
from palio.settings.tree import ModelSettings, Path, Settings
from palio.settings.wording import as_yaml, say

# Known keys that nothing acts upon yet. Each leaves this list with the work that brings it.
NOT_YET: Final[frozenset[Path]] = frozenset(
    {
        ("server", "grpc_port"),
        ("models", ANY_NAME, "finite_inputs"),
        ("models", ANY_NAME, "cache", "enabled"),
        ("models", ANY_NAME, "cache", "max_mb"),
        ("models", ANY_NAME, "cache", "ttl_s"),
        ("pipelines",),
        ("compat",),
        ("edge", "enabled"),
        ("telemetry", "traces"),
    }
)
ROUTES: Final = ("/v1/embeddings",)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Problem = tuple[Path, str]


def check(layer: Layer) -> Settings:
    """The settings that `layer` describes, with their origins.

    Raises:
        SettingsError: one line for each thing wrong, with file and line, variable or flag.
    """
    problems: list[Problem] = []
    known = _without_unknown(layer.values, Settings, (), problems)
    try:
        settings = adapter().validate_python({**known, "origins": layer.origins})
    except ValidationError as fault:
        problems += _translated(fault, known)
    else:
        problems += _senseless(settings)
        if not problems:
            return settings
    lines = (f"{_where(path, layer)}{'.'.join(path)}{text}" for path, text in problems)
    raise SettingsError("\n".join(lines))


@cache
def adapter() -> TypeAdapter[Settings]:
    """Pydantic's reader of the tree; building it takes time, so it is built when first needed."""
    return TypeAdapter(Settings)


def _without_unknown(value: object, kind: Any, at: Path, problems: list[Problem]) -> dict[str, Any]:
    """The part of a mapping that has a place in the tree; the rest are problems."""
    known: dict[str, Any] = {}
    if not isinstance(value, Mapping):
        return known
    fields, named = fields_of(kind), named_by(kind)
    for key, inner in value.items():
        path = (*at, str(key))
        if fields is not None and key not in fields:
            problems.append((path, f" is not a setting{_suggest(path, fields)}"))
            continue
        inner_kind = named if fields is None else fields[key]
        has_keys = fields_of(inner_kind) is not None or named_by(inner_kind) is not None
        if has_keys and isinstance(inner, Mapping):
            known[key] = _without_unknown(inner, inner_kind, path, problems)
        else:
            known[key] = inner
    return known


def _suggest(path: Path, siblings: Mapping[str, Any]) -> str:
    """The key that was meant: the same word in one other place, or a like one beside it."""
    *above, word = path
    elsewhere = [
        full
        for pattern, _ in patterns()
        if pattern[-1] == word and (full := _filled(pattern, path)) is not None
    ]
    inside = [full for full in elsewhere if full[: len(above)] == tuple(above)]
    for candidates in (inside, elsewhere):
        if len(candidates) == 1:
            return f"; did you mean {'.'.join(candidates[0])}?"
    if close := nearest(word, siblings):
        return f"; did you mean {'.'.join((*above, close))}?"
    return f"; known here are {', '.join(siblings)}"


def _filled(pattern: Path, path: Path) -> Path | None:
    """A pattern with the names that `path` has in the same places; None if it has none."""
    filled = []
    for at, name in enumerate(pattern):
        if name != ANY_NAME:
            filled.append(name)
        elif at < len(path) - 1 and pattern[:at] == path[:at]:
            filled.append(path[at])
        else:
            return None
    return tuple(filled)


def _translated(fault: ValidationError, values: Mapping[str, Any]) -> list[Problem]:
    """Pydantic's findings in our words; what it says of each side of a union becomes one line."""
    by_path: dict[Path, list[Any]] = {}
    for error in fault.errors(include_url=False):
        path = _path_of(error["loc"], values)
        if error["type"] == "missing":
            path = (*path, str(error["loc"][-1]))
        by_path.setdefault(path, []).append(error)
    return [(path, f": {say(errors)}") for path, errors in by_path.items()]


def _path_of(loc: tuple[int | str, ...], values: object) -> Path:
    """The part of pydantic's location that is in the values; the rest names types."""
    path: list[str] = []
    for step in loc:
        if not isinstance(values, Mapping) or step not in values:
            break
        path.append(str(step))
        values = values[step]
    return tuple(path)


def _senseless(settings: Settings) -> Iterator[Problem]:
    """What every value alone allows, but all of them together, or we as we are, do not."""
    sample = Settings(models={ANY_NAME: ModelSettings(source="")})
    defaults = dict(leaves(sample))
    early: dict[Path, object] = {}
    for path, value in leaves(settings):
        pattern = _pattern_of(path)
        if pattern in NOT_YET and value != defaults[pattern]:
            early[path[: len(pattern)]] = defaults[pattern]
    for path, default in early.items():
        yield path, f": is not available yet; leave it at {as_yaml(default)}"
    for name in settings.models:
        if not _NAME.fullmatch(name):
            yield (
                ("models", name),
                ": a model's name is letters, digits, dots, dashes and underscores",
            )
    for route, model in settings.routes.items():
        if route not in ROUTES:
            yield ("routes", route), f" is not a route{did_you_mean(route, ROUTES)}"
        if model not in settings.models:
            close = did_you_mean(model, settings.models)
            yield ("routes", route), f": there is no model {model!r}{close}"


def _pattern_of(path: Path) -> Path:
    if path[0] == "models" and len(path) > 1:
        return ("models", ANY_NAME, *path[2:])
    return path[:1] if path[0] == "pipelines" else path


def _where(path: Path, layer: Layer) -> str:
    """Where the nearest part of `path` that anybody wrote was written."""
    for end in range(len(path), 0, -1):
        if origin := layer.origins.get(path[:end]):
            return f"{origin}: "
    return ""
