"""Writes down what can be set: a page for people and a JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from palio.settings.check import adapter
from palio.settings.explain import leaves
from palio.settings.shape import ANY_NAME, description_of, fields_of, named_by
from palio.settings.tree import ModelSettings, Path, Settings
from palio.settings.wording import as_yaml
from palio.settings.yaml_files import EXTENDS

# What a required key has for a default, in a sample of the tree.
_REQUIRED: Final = "required"

_HEAD: Final = """\
# Settings

<!-- Written by palio.settings.reference_page(); a test holds this page to it. -->

Every key is optional except a model's `source`. A key that is unknown, unusable or would have no
effect stops the start with one line that says where it was written and which key is like it.

**Who wins.** Flags, then the environment, then the file, then what the file `extends`.
`palio config explain` prints every value in effect and who said it.

**In the file.** `extends: base.yaml` lays the file over another, named from its own folder:
mappings are merged key by key, lists and single values are replaced. `${NAME}` is an environment
variable and stops the start where it is not set; `${NAME:-8000}` has a default; `$${` is a written
`${`. A relative `file:` source counts from the folder of the file that names it.

**In the environment.** `PALIO_SERVER__HTTP_PORT=9000` sets `server.http_port`, and
`PALIO_MODELS__MINILM_L6__THREADS=2` that of the model `minilm-l6`. Values are read as YAML.
`PALIO_CACHE` is no setting: it is the folder for downloads and built models, otherwise
`$XDG_CACHE_HOME/palio` or `~/.cache/palio`.

**As flags.** The dotted key; `models.*.threads` is that of every model.

**Without a file.** `palio serve zoo:minilm-l6` and `palio serve model.onnx` are one model with
every default, called `minilm-l6` and `model`.

Sizes in `_mb` are 10⁶ bytes, in `_kb` 10³.
"""


def reference_page() -> str:
    """The page docs/reference/settings.md, as it should be."""
    return "\n".join((_HEAD, *_sections(Settings, ()))).rstrip() + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `palio.yaml`."""
    schema = adapter().json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "palio.yaml"
    schema["properties"][EXTENDS] = {
        "type": "string",
        "description": "A file that this one is laid over, from this one's folder.",
    }
    return schema


def _sections(kind: Any, at: Path) -> Iterator[str]:
    """A table for every class, the outermost first."""
    fields = fields_of(kind) or {}
    inner: list[tuple[Path, Any]] = []
    rows: list[str] = []
    for name, field_kind in fields.items():
        path = (*at, name)
        named = named_by(field_kind)
        if fields_of(field_kind) is not None:
            inner.append((path, field_kind))
        elif named is not None and fields_of(named) is not None:
            inner.append(((*path, ANY_NAME), named))
        else:
            rows.append(
                f"| `{name}` | {_default(path)} | {_values(field_kind)} "
                f"| {description_of(field_kind)} |"
            )
    if rows:
        title = f"`{'.'.join(at)}`" if at else "At the top"
        yield f"## {title}\n"
        if at:
            yield f"{_first_line(kind)}\n"
        yield "| key | default | values | what it means |\n|---|---|---|---|"
        yield from rows
        yield ""
    for path, inner_kind in inner:
        yield from _sections(inner_kind, path)


def _first_line(kind: Any) -> str:
    """What a class says of itself."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return str(bare.__doc__).partition("\n")[0]


def _default(path: Path) -> str:
    sample = Settings(models={ANY_NAME: ModelSettings(source=_REQUIRED)})
    value = dict(leaves(sample))[path]
    return _REQUIRED if value == _REQUIRED else f"`{as_yaml(value)}`"


def _values(kind: Any, limits: str = "") -> str:
    """The values a key may have, in words."""
    if get_origin(kind) is Annotated:
        bare, *notes = get_args(kind)
        return _values(bare, " and".join(_limits(notes)))
    if get_origin(kind) is Literal:
        return " · ".join(f"`{word}`" for word in get_args(kind))
    if get_origin(kind) is Mapping:
        return f"mapping of name to {_values(get_args(kind)[1])}"
    if members := get_args(kind):
        numbers = {int, float} <= set(members)
        # Every whole number is a number, so the two need saying once.
        words_of = [_values(each) for each in members if not (numbers and each is int)]
        return " or ".join(dict.fromkeys(words_of))
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return {**words, NoneType: "null"}.get(kind, "anything") + limits


def _limits(notes: list[Any]) -> Iterator[str]:
    """The bounds among a field's notes: pydantic keeps those of `Field` in a list of its own."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for note in notes:
        for limit in getattr(note, "metadata", ()):
            for name, sign in signs.items():
                if (bound := getattr(limit, name, None)) is not None:
                    yield f" {sign} {bound:g}"
