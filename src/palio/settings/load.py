"""Reads the settings from everywhere: flags > environment > file > what the file extends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from palio.core.errors import SettingsError
from palio.settings.check import check
from palio.settings.layers import Layer
from palio.settings.overrides import environment_layer, flags_layer
from palio.settings.tree import Settings
from palio.settings.yaml_files import read_yaml

_YAML: Final = frozenset({".yaml", ".yml"})
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
# A model of the zoo that ONNX Runtime does not run.
_BACKENDS: Final = {"zoo:toy": "toy"}


def load_settings(
    source: str | Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> Settings:
    """The settings that `source` names, under the environment's and the flags'.

    `source` is a YAML file, or a single model such as `zoo:minilm-l6`, `model.onnx` or a folder
    that holds one; that model answers to the last part of its name. None starts from the defaults.

    Raises:
        SettingsError: one line for each thing wrong.
    """
    layer = _base(source, environ)
    layer = layer.under(environment_layer(environ, layer.values))
    layer = layer.under(flags_layer(flags, layer.values))
    return check(layer)


def _base(source: str | Path | None, environ: Mapping[str, str]) -> Layer:
    if source is None:
        return Layer()
    text = str(source)
    path = Path(source)
    if _SCHEME.match(text):
        return _one_model(text, text)
    if path.suffix in _YAML:
        return read_yaml(path, environ)
    if path.suffix == ".onnx" or path.is_dir():
        return _one_model(f"file:{path}", text)
    raise SettingsError(
        f"{text}: is nothing that can be served; give a palio.yaml, a model.onnx or zoo:NAME"
    )


def _one_model(source: str, said: str) -> Layer:
    """One model with every default, called by the last part of where it comes from."""
    place = source.partition(":")[2].partition("#")[0].partition("?")[0]
    stem = Path(place).name.removesuffix(".onnx")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model"
    model = {"source": source}
    if source in _BACKENDS:
        model["backend"] = _BACKENDS[source]
    origin = f"argument {said}"
    origins = dict.fromkeys((("models", name), *(("models", name, key) for key in model)), origin)
    return Layer(values={"models": {name: model}}, origins=origins)
