"""Reads a YAML file and those it extends, keeping the line of every key."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from palio.core.errors import SettingsError
from palio.settings.layers import Layer
from palio.settings.tree import Path

EXTENDS: Final = "extends"

# `$${` is a written `${`; otherwise `${NAME}` or `${NAME:-what to take instead}`.
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[^}:]*)(?P<default>:-[^}]*)?\}")
_MAX_DEPTH: Final = 32
_LOCAL_SOURCE: Final = re.compile(r"(?:file:)?(?![A-Za-z][A-Za-z0-9+.-]*:)(?P<path>[^/~].*)")


def read_yaml(path: FilePath, environ: Mapping[str, str]) -> Layer:
    """What `path` says, laid over what it extends.

    Raises:
        SettingsError: a file is missing, is no YAML, extends itself, or names an unset variable.
    """
    return _read_chain(path, environ, (), f"{path}")


def _read_chain(
    path: FilePath, environ: Mapping[str, str], above: tuple[FilePath, ...], asked_by: str
) -> Layer:
    if path.resolve() in above:
        raise SettingsError(f"{asked_by}: {path} extends itself by a detour")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise SettingsError(f"{asked_by}: cannot read {path}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise SettingsError(f"{path}: is not UTF-8 text") from fault
    layer = _Reader(path, environ).read(text)
    values = dict(layer.values)
    if EXTENDS not in values:
        return layer
    base_name = values.pop(EXTENDS)
    said_at = layer.origins[(EXTENDS,)]
    if not isinstance(base_name, str):
        raise SettingsError(f"{said_at}: {EXTENDS}: must be the path of one file")
    origins = {at: where for at, where in layer.origins.items() if at != (EXTENDS,)}
    base = _read_chain(path.parent / base_name, environ, (*above, path.resolve()), said_at)
    return base.under(Layer(values=values, origins=origins))


class _Reader:
    """One file on its way from text to a layer."""

    def __init__(self, path: FilePath, environ: Mapping[str, str]) -> None:
        self._path: Final = path
        self._environ: Final = environ
        # Makes values of single nodes; the file's own text is composed apart from it.
        self._maker: Final = yaml.SafeLoader("")
        self._origins: Final[dict[Path, str]] = {}

    def read(self, text: str) -> Layer:
        try:
            node = yaml.compose(text, yaml.SafeLoader)
            value = {} if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as fault:
            raise SettingsError(f"{self._where_of(fault)}: {fault.problem}") from fault
        except yaml.YAMLError as fault:
            said = " ".join(str(fault).split())
            raise SettingsError(f"{self._path}: is not YAML: {said}") from fault
        # A file of nothing but comments composes to nothing, or to a single null.
        if not isinstance(value, dict | None):
            raise SettingsError(f"{self._path}:1: must be a mapping of settings")
        return Layer(values=value or {}, origins=self._origins)

    def _value(self, node: yaml.Node, at: Path) -> Any:
        if len(at) > _MAX_DEPTH:
            # Also where an alias that contains itself ends.
            raise SettingsError(f"{self._where(node)}: is nested too deeply")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*at, str(n))) for n, item in enumerate(node.value)]
        return self._scalar(node, at)

    def _mapping(self, node: yaml.MappingNode, at: Path) -> dict[Hashable, Any]:
        values: dict[Hashable, Any] = {}
        for key_node, inner in node.value:
            where = self._where(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise SettingsError(f"{where}: a key is a word")
            key = key_node.value
            if key in values:
                raise SettingsError(f"{where}: {'.'.join((*at, key))} is here twice")
            self._origins[(*at, key)] = where
            values[key] = self._value(inner, (*at, key))
        return values

    def _scalar(self, node: yaml.Node, at: Path) -> Any:
        if "${" not in node.value:
            value = self._constructed(node)
        else:
            text = _VARIABLE.sub(lambda found: self._variable(found, node), node.value)
            # What a variable holds is read as if it stood in the file, unless in quotes.
            is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
            value = parse_scalar(text) if is_plain else text
        is_source = len(at) == 3 and at[0] == "models" and at[2] == "source"
        return self._anchor(value) if is_source and isinstance(value, str) else value

    def _constructed(self, node: yaml.Node) -> Any:
        try:
            return self._maker.construct_object(node)
        except ValueError as fault:
            raise SettingsError(f"{self._where(node)}: {node.value}: {fault}") from fault

    def _variable(self, found: re.Match[str], node: yaml.Node) -> str:
        name, default = found["name"], found["default"]
        if name is None:
            return "${"
        value = self._environ.get(name, "")
        if value or (name in self._environ and default is None):
            return value
        if default is None:
            raise SettingsError(
                f"{self._where(node)}: ${{{name}}} is not set; "
                f"set it, or write ${{{name}:-a default}}"
            )
        return default.removeprefix(":-")

    def _anchor(self, source: str) -> str:
        """A relative path in a file counts from the folder of that file."""
        local = _LOCAL_SOURCE.fullmatch(source)
        return f"file:{self._path.parent / local['path']}" if local else source

    def _where(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"

    def _where_of(self, fault: yaml.MarkedYAMLError) -> str:
        mark = fault.problem_mark or fault.context_mark
        return f"{self._path}:{mark.line + 1}" if mark else f"{self._path}"


def parse_scalar(text: str) -> Any:
    """Text from outside a file as YAML would read it; what is no YAML is the text itself."""
    try:
        return yaml.safe_load(text)
    # A ValueError is a date that is none, such as 2026-13-01.
    except (yaml.YAMLError, ValueError):
        return text
