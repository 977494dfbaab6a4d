"""How one input becomes the bytes of a request, and how an answer to it is checked.

Three ways of asking: the Open Inference Protocol over HTTP in JSON, OpenAI's embeddings, and plain
HTTP by a template. All requests of a workload are made before the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import orjson

from palio.bench.questions import Questions, post
from palio.bench.target import Target
from palio.bench.workloads import Workload
from palio.core.errors import SettingsError
from palio.core.tensors import Array, datatype_of

JSON: Final = "application/json"
# The same figure comes in many spellings of float32; and the order of a batch moves the last bits.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True, slots=True)
class Body:
    """What goes into a request; `headers` are further lines, each with its end."""

    path: str
    content: bytes
    content_type: str = JSON
    headers: str = ""


class Adapter(Protocol):
    """One way of asking."""

    name: str

    def body(self, workload: Workload, input_id: int) -> Body:
        """The request for that input; raises `SettingsError` if it cannot carry such inputs."""

    def is_right(self, answer: bytes, workload: Workload, input_id: int) -> bool:
        """Whether that is an answer to it, and the expected one where one is known."""


def prepare(adapter: Adapter, workload: Workload, target: Target) -> Questions:
    """All requests of the workload, as this adapter asks them of this target."""
    requests = []
    digest = sha256(workload.sha256.encode())
    for input_id in range(len(workload)):
        body = adapter.body(workload, input_id)
        path = target.base_path + body.path
        requests.append(post(target.authority, path, body.content, body.content_type, body.headers))
        digest.update(f"{body.path} {len(body.content)} ".encode() + body.content)
    return Questions(
        name=f"{adapter.name} {workload.name}",
        requests=tuple(requests),
        rows=workload.rows,
        lengths=workload.lengths,
        check=lambda answer, input_id: adapter.is_right(answer, workload, input_id),
        sha256=digest.hexdigest(),
    )


class _OipOutput(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    data: list[Any]


class _OipAnswer(msgspec.Struct, gc=False):
    outputs: list[_OipOutput]


_read_oip: Final = msgspec.json.Decoder(_OipAnswer).decode


class Oip:
    """The Open Inference Protocol in JSON: texts as BYTES, tensors as what they are.

    `palio.bench.binary` has the binary form.
    """

    name = "oip"

    def __init__(self, model: str, tensor: str, *, version: str = "", output: str = "") -> None:
        """Ask `model`, whose input is called `tensor`; `output` is what is expected to be right."""
        self._path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        self._tensor = tensor
        self._output = output

    def body(self, workload: Workload, input_id: int) -> Body:
        given: dict[str, object]
        if workload.texts:
            texts = workload.texts[input_id]
            given = {"datatype": "BYTES", "shape": [len(texts)], "data": texts}
        else:
            tensor = workload.tensors[input_id]
            flat = np.ascontiguousarray(tensor).reshape(-1)
            given = {"datatype": datatype_of(tensor), "shape": tensor.shape, "data": flat}
        content = orjson.dumps(
            {"inputs": [{"name": self._tensor, **given}]}, option=orjson.OPT_SERIALIZE_NUMPY
        )
        return Body(self._path, content)

    def is_right(self, answer: bytes, workload: Workload, input_id: int) -> bool:
        try:
            outputs = _read_oip(answer).outputs
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if not outputs or not all(map(_is_whole, outputs)):
            return False
        if not workload.expected:
            return True
        named = [each for each in outputs if self._output in ("", each.name)]
        return bool(named) and is_close(named[0].data, workload.expected[input_id])


class _Embedding(msgspec.Struct, gc=False):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct, gc=False):
    data: list[_Embedding]


_read_embeddings: Final = msgspec.json.Decoder(_Embeddings).decode


class OpenAIEmbeddings:
    """OpenAI's `/v1/embeddings`: one text as such, several as a list."""

    name = "openai"

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, workload: Workload, input_id: int) -> Body:
        if not workload.texts:
            raise SettingsError(f"embeddings are asked of texts; {workload.name} has none")
        texts = workload.texts[input_id]
        asked = {"model": self._model, "input": texts[0] if len(texts) == 1 else texts}
        return Body("/v1/embeddings", orjson.dumps(asked))

    def is_right(self, answer: bytes, workload: Workload, input_id: int) -> bool:
        try:
            data = _read_embeddings(answer).data
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if [each.index for each in data] != list(range(len(workload.texts[input_id]))):
            return False
        vectors = [each.embedding for each in data]
        # A vector of zeros points nowhere: no model means it.
        if not all(len(each) == len(vectors[0]) and any(each) for each in vectors):
            return False
        if not workload.expected:
            return True
        return is_close([x for each in vectors for x in each], workload.expected[input_id])


_place: Final = re.compile(r"\{(?:text|texts|data|n)\}")
_PLACES: Final = ("{text}", "{texts}", "{data}", "{n}")


class JsonTemplate:
    """Plain HTTP with a JSON body, in which the input has its place.

    `{text}` is the input's first text, put between the template's own quotes, `{texts}` all of
    them as a list, `{data}` a tensor as nested lists, `{n}` the input's number. An answer is right
    if it is JSON and contains `contains`.
    """

    name = "http"

    def __init__(self, path: str, template: str, *, contains: bytes = b"") -> None:
        _check_template(path, template)
        self._path = path
        self._template = template
        self._contains = contains

    def body(self, workload: Workload, input_id: int) -> Body:
        places = _places(workload, input_id)
        if "{text}" in places:
            places["{text}"] = orjson.dumps(places["{text}"]).decode()[1:-1]
        content = _put(self._template, places).encode()
        try:
            orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise SettingsError(f"the filled template is not JSON: {error}") from None
        return Body(self._path, content)

    def is_right(self, answer: bytes, workload: Workload, input_id: int) -> bool:  # noqa: ARG002
        try:
            orjson.loads(answer)
        except orjson.JSONDecodeError:
            return False
        return self._contains in answer


class FormTemplate:
    """Plain HTTP with a multipart form; the places are those of `JsonTemplate`, as they stand.

    An answer is right if there is one and it contains `contains`.
    """

    name = "form"

    def __init__(
        self, path: str, fields: Sequence[tuple[str, str]], *, contains: bytes = b""
    ) -> None:
        _check_template(path, "".join(value for _, value in fields))
        self._path = path
        self._fields = tuple(fields)
        self._contains = contains

    def body(self, workload: Workload, input_id: int) -> Body:
        places = _places(workload, input_id)
        fields = [(name, _put(value, places).encode()) for name, value in self._fields]
        boundary = "palio-" + sha256(b"".join(value for _, value in fields)).hexdigest()[:24]
        parts = [
            b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
            % (boundary.encode(), name.encode(), value)
            for name, value in fields
        ]
        content = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return Body(self._path, content, f"multipart/form-data; boundary={boundary}")

    def is_right(self, answer: bytes, workload: Workload, input_id: int) -> bool:  # noqa: ARG002
        return bool(answer) and self._contains in answer


def _check_template(path: str, template: str) -> None:
    if not path.startswith("/"):
        raise SettingsError(f"path: {path!r} does not begin with /")
    if not any(place in template for place in _PLACES):
        raise SettingsError(f"the template has none of {' '.join(_PLACES)} in it")


def _places(workload: Workload, input_id: int) -> dict[str, str]:
    places = {"{n}": str(input_id)}
    if workload.texts:
        texts = workload.texts[input_id]
        places["{text}"] = texts[0]
        places["{texts}"] = orjson.dumps(texts).decode()
    else:
        data = np.ascontiguousarray(workload.tensors[input_id])
        places["{data}"] = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return places


def _put(template: str, places: dict[str, str]) -> str:
    """The template filled in one pass: a text that looks like a place stays a text."""
    return _place.sub(lambda found: places.get(found[0], found[0]), template)


def _is_whole(output: _OipOutput) -> bool:
    """As many values as the shape says, none missing; what is not finite comes as null."""
    return len(output.data) == math.prod(output.shape) and all(
        math.isfinite(value) if isinstance(value, int | float) else isinstance(value, str)
        for value in output.data
    )


def is_close(given: Sequence[Any] | Array, expected: Array) -> bool:
    """Whether values are the expected ones, up to how float32 is spelt and summed."""
    try:
        values = np.array(given, np.float64)
    except (TypeError, ValueError):
        return False
    wanted = expected.reshape(-1).astype(np.float64)
    return values.shape == wanted.shape and bool(
        np.allclose(values, wanted, rtol=_RELATIVE, atol=_ABSOLUTE)
    )
