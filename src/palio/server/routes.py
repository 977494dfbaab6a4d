"""Which path means what, and to which model it belongs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from palio.core.errors import BadRequest, NotFound
from palio.core.ports import ModelState

Kind = Literal[
    "infer",
    "embeddings",
    "root",
    "server",
    "live",
    "ready",
    "model",
    "model_ready",
    "alive",
    "metrics",
]

READ: Final = ("GET", "HEAD")
ASK: Final = ("POST",)

EMBEDDINGS_PATH: Final = "/v1/embeddings"
_OPENAI_PREFIX: Final = "/v1/"
_MAX_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked; `name` is its template, fit for logs and labels."""

    name: str
    kind: Kind
    methods: tuple[str, ...] = READ
    is_openai: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A route, and the model and version that the path or the configuration named."""

    route: Route
    model: str = ""
    version: str = ""


# For requests that never got as far as a route.
UNROUTED: Final = Match(Route("-", "root", ()))
UNROUTED_OPENAI: Final = Match(Route("-", "root", (), is_openai=True))

_PAGES: Final[dict[str, Kind]] = {
    "/": "root",
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
    "/health": "alive",
    "/healthz": "alive",
    "/ready": "ready",
    "/readiness": "ready",
    "/metrics": "metrics",
}
_FIXED: Final = {path: Match(Route(path, kind)) for path, kind in _PAGES.items()}

_ONE: Final = "/v2/models/{model}"
_VERSIONED: Final = "/v2/models/{model}/versions/{version}"
_ENDS: Final[dict[str, Kind]] = {"": "model", "/ready": "model_ready", "/infer": "infer"}
_OF_A_MODEL: Final = {
    base + end: Route(base + end, kind, ASK if kind == "infer" else READ)
    for base in (_ONE, _VERSIONED)
    for end, kind in _ENDS.items()
}


class RouteTable:
    """Finds the match for a request's target; a slash at the end makes no difference.

    A configured path speaks OpenAI's form if its model embeds text, else the protocol's own.
    """

    def __init__(
        self, bound: Mapping[str, str], models: Callable[[], Mapping[str, ModelState]]
    ) -> None:
        self._bound = {_tidy(path): model for path, model in bound.items()}
        self._models = models
        self._known: dict[bytes, Match] = {}

    def find(self, target: bytes) -> Match:
        """The match for a target as it came off the wire.

        Raises:
            NotFound: there is no such route.
            BadRequest: the target cannot be read.
        """
        match = self._known.get(target)
        if match is None:
            match = self._find(_segments(target))
            # Only paths to models that exist are remembered, so callers cannot fill this.
            if len(self._known) < _MAX_REMEMBERED and match.model in self._models():
                self._known[target] = match
        return match

    def is_openai(self, target: bytes) -> bool:
        """Whether a target without a match at least looks like one of OpenAI's."""
        return target.startswith(_OPENAI_PREFIX.encode())

    def _find(self, segments: list[str]) -> Match:
        path = "/" + "/".join(segments)
        if path in self._bound:
            return self._of_configuration(path, self._bound[path])
        if path in _FIXED:
            return _FIXED[path]
        if path == EMBEDDINGS_PATH:
            return Match(Route(path, "embeddings", ASK, is_openai=True))
        if segments[:2] == ["v2", "models"] and len(segments) > 2:
            return _of_a_model(segments[2], segments[3:])
        raise NotFound(f"there is no route {path[:200]!r}")

    def _of_configuration(self, path: str, model: str) -> Match:
        state = self._models().get(model)
        if state is not None and state.manifest.task == "text-embedding":
            return Match(Route(path, "embeddings", ASK, is_openai=True), model)
        return Match(Route(path, "infer", ASK, is_openai=path.startswith(_OPENAI_PREFIX)), model)


def _of_a_model(model: str, rest: list[str]) -> Match:
    version = ""
    name = _ONE
    if rest[:1] == ["versions"] and len(rest) > 1:
        version, rest, name = rest[1], rest[2:], _VERSIONED
    name = "/".join((name, *rest))
    route = _OF_A_MODEL.get(name)
    if route is None:
        raise NotFound(f"a model has no route {'/'.join(rest)[:200]!r}")
    return Match(route, model, version)


def _segments(target: bytes) -> list[str]:
    """The parts of the path, decoded one by one: an escaped slash stays inside its part."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):
        # The absolute form, which servers must accept (RFC 9112 §3.2.2).
        _, scheme, rest = path.partition(b"://")
        if not scheme:
            raise NotFound("there is no such route")
        path = b"/" + rest.partition(b"/")[2]
    try:
        parts = [unquote_to_bytes(part).decode() for part in path.split(b"/")[1:]]
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _tidy(path: str) -> str:
    return "/" + path.strip("/")
