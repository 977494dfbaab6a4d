"""What a server says it is: the configuration that was in effect, for the trial's manifest.

Any server may be asked: what it does not answer is left out, and `unanswered` names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

import orjson

Get = Callable[[str], bytes | None]

_INFO: Final = re.compile(r"^inf_model_info\{(.*)\} 1(?:\.0)?$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


def read_server(get: Get, models: Iterable[str] = ()) -> dict[str, Any]:
    """What a server tells of itself and of its models, those that its metrics name included.

    `get` fetches a path, and gives None for anything but a page that is there.
    """
    unanswered: list[str] = []

    def ask(path: str) -> bytes:
        answer = get(path)
        if answer is None:
            unanswered.append(path)
        return answer or b""

    info = model_info(ask("/metrics").decode("utf-8", "replace"))
    names = dict.fromkeys([*models, *(facts["model"] for facts in info if "model" in facts)])
    return {
        "server": _json(ask("/v2")),
        "models": {name: _json(ask(f"/v2/models/{quote(name, safe='')}")) for name in names},
        "info": info,
        "unanswered": unanswered,
    }


def model_info(metrics: str) -> list[dict[str, str]]:
    """The labels of every `inf_model_info` on a page of metrics."""
    return [
        {name: _ESCAPED.sub(_unescaped, value) for name, value in _LABEL.findall(labels)}
        for labels in _INFO.findall(metrics)
    ]


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _json(answer: bytes) -> Any:
    """What an answer says; None if it is no JSON."""
    try:
        return orjson.loads(answer)
    except ValueError:
        return None
