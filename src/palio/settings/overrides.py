"""Turns environment variables and flags into layers of settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from palio.settings.layers import Layer, Values, layer_of
from palio.settings.places import CACHE_VARIABLE
from palio.settings.shape import ANY_NAME, fields_of, named_by
from palio.settings.tree import Path, Settings
from palio.settings.yaml_files import parse_scalar

PREFIX: Final = "PALIO_"
SEPARATOR: Final = "__"

# Variables with our prefix that are no settings.
RESERVED: Final = frozenset({CACHE_VARIABLE})
# Kubernetes tells every container of every Service; one called palio, or palio-something, would
# otherwise look like settings: PALIO_SERVICE_HOST, PALIO_PORT_8000_TCP_ADDR, PALIO_PORT=tcp://…
_SERVICE_LINK: Final = re.compile(
    r"PALIO_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)"
)
_SERVICE_URL: Final = re.compile(r"PALIO_(\w+_)?PORT=(tcp|udp)://.*")


def environment_layer(environ: Mapping[str, str], below: Values) -> Layer:
    """Every `PALIO_SERVER__HTTP_PORT=9000`; `below` has the names that variables may refer to."""
    layer = Layer()
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or _is_not_ours(variable, environ[variable]):
            continue
        words = variable.removeprefix(PREFIX).split(SEPARATOR)
        path = tuple(_by_folded_names(words, Settings, below))
        value = parse_scalar(environ[variable])
        layer = layer.under(layer_of(path, value, f"environment {variable}"))
    return layer


def flags_layer(flags: Mapping[str, object], below: Values) -> Layer:
    """Every flag by its dotted key; `models.*.threads` means that of every model."""
    layer = Layer()
    for key, given in flags.items():
        value = parse_scalar(given) if isinstance(given, str) else given
        for path in _starred(tuple(key.split(".")), below):
            layer = layer.under(layer_of(path, value, f"flag {key}"))
    return layer


def _is_not_ours(variable: str, value: str) -> bool:
    if variable in RESERVED:
        return True
    if SEPARATOR in variable:
        return False
    return bool(_SERVICE_LINK.fullmatch(variable) or _SERVICE_URL.fullmatch(f"{variable}={value}"))


def _by_folded_names(words: list[str], kind: Any, below: object) -> Iterator[str]:
    """Words of a variable as keys: `MINILM_L6` finds the model that is called `minilm-l6`."""
    for word in words:
        key = word.lower()
        fields, named = fields_of(kind), named_by(kind)
        names = below if isinstance(below, Mapping) else {}
        if named is not None:
            key = next((name for name in names if _folded(name) == _folded(key)), key)
        yield key
        kind = fields.get(key) if fields is not None else named
        below = names.get(key)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _starred(path: Path, below: object) -> Iterator[Path]:
    """Every path that `path` stands for."""
    if not path:
        yield ()
        return
    names = below if isinstance(below, Mapping) else {}
    for name in names if path[0] == ANY_NAME else path[:1]:
        for rest in _starred(path[1:], names.get(name)):
            yield (name, *rest)
