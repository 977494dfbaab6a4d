"""From what a user names to what is sent: the model, its input, and the way of asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import orjson

from palio.bench.adapters import Adapter, FormTemplate, JsonTemplate, Oip, OpenAIEmbeddings
from palio.bench.binary import OipBinary
from palio.bench.fetch import page, unreachable
from palio.bench.target import Target
from palio.bench.workloads import Workload
from palio.core.errors import SettingsError

Way = Literal["auto", "openai", "oip", "oip-binary", "json", "form"]


class Unreachable(Exception):
    """The server cannot be asked what it serves, for no connection can be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How to ask: the way, the model and its input where it needs them, or a path and template."""

    way: Way = "auto"
    model: str = ""
    tensor: str = ""
    path: str = "/"
    template: str = ""


def adapter_for(asking: Asking, workload: Workload, target: Target) -> Adapter:
    """The adapter that asks this way; the model is looked up at the server if it was not named.

    Raises:
        SettingsError: the server does not say which model, or a template is missing.
        Unreachable: it would have to be asked, and cannot be.
    """
    way = asking.way
    if way == "auto":
        way = "openai" if workload.texts else "oip"
        if asking.template:
            way = "json"
    if way in ("json", "form"):
        if not asking.template:
            raise SettingsError('plain HTTP needs --template, such as \'{"text": "{text}"}\'')
        if way == "json":
            return JsonTemplate(asking.path, asking.template)
        fields = [field.partition("=") for field in asking.template.split("&")]
        return FormTemplate(asking.path, [(name, value) for name, _, value in fields])
    model = asking.model or _only_model(target, has_texts=bool(workload.texts))
    if way == "openai":
        return OpenAIEmbeddings(model)
    tensor = asking.tensor or _first_input(target, model)
    return OipBinary(model, tensor) if way == "oip-binary" else Oip(model, tensor)


def _only_model(target: Target, *, has_texts: bool) -> str:
    """The one model of the server that takes such inputs."""
    listed = _json(target, "/").get("models")
    names = [str(name) for name in listed] if isinstance(listed, dict) else []
    fitting = [name for name in names if _takes_text(target, name) == has_texts]
    if len(fitting) == 1:
        return fitting[0]
    _check_reachable(target)
    said = f"it lists {', '.join(names)}" if names else "it lists none"
    raise SettingsError(f"name the model with --model: {target.name} does not say which; {said}")


def _takes_text(target: Target, model: str) -> bool:
    inputs = _inputs(target, model)
    return bool(inputs) and inputs[0].get("datatype") == "BYTES"


def _first_input(target: Target, model: str) -> str:
    inputs = _inputs(target, model)
    if not inputs or "name" not in inputs[0]:
        _check_reachable(target)
        raise SettingsError(f"{target.name} does not describe the model {model!r} at /v2/models")
    return str(inputs[0]["name"])


def _check_reachable(target: Target) -> None:
    if reason := unreachable(target):
        raise Unreachable(f"{target.name} cannot be asked what it serves: {reason}")


def _inputs(target: Target, model: str) -> list[dict[str, Any]]:
    """What the model takes, as the server tells it; any server may say anything there."""
    inputs = _json(target, f"/v2/models/{quote(model, safe='')}").get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        return []
    return inputs


def _json(target: Target, path: str) -> dict[str, Any]:
    content = page(target, path)
    try:
        said = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
