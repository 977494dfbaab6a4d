"""OpenAI's `/v1/embeddings`: texts in, vectors out, in the form its clients know.

Fields this form does not name are ignored, as are `user` and other hints: OpenAI's clients send
new ones before servers know them, and none of them changes a vector.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np

from palio.core.errors import TooLarge, ValidationFailed
from palio.core.manifest import Manifest
from palio.core.requests import InferRequest, InferResponse
from palio.core.tensors import BYTES, Array, Tensor
from palio.wire.json_form import read_form
from palio.wire.oip_data import write_json
from palio.wire.texts import check_text

Encoding = Literal["float", "base64"]


class _Form(msgspec.Struct, gc=False):
    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: str = "float"
    dimensions: int | None = None


_decoder: Final = msgspec.json.Decoder(_Form)


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """A readable call: `model` as the caller named it, or empty."""

    model: str
    texts: tuple[str, ...]
    encoding: Encoding
    dimensions: int | None

    def request(
        self,
        model: str,
        manifest: Manifest,
        *,
        correlation_id: str,
        first_read_ns: int,
        now_ns: Callable[[], int],
    ) -> InferRequest:
        """The question this is to `model`; raises `ValidationFailed` for other dimensions."""
        if self.dimensions is not None:
            _check_dimensions(self.dimensions, manifest)
        data = np.array([text.encode() for text in self.texts], np.object_)
        return InferRequest(
            model=model,
            inputs=(Tensor(manifest.inputs[0].name, BYTES, data),),
            correlation_id=correlation_id,
            first_read_ns=first_read_ns,
            read_ns=now_ns(),
        )


def read_embeddings(body: bytes, *, max_items: int, max_text_chars: int) -> EmbeddingsCall:
    """Read and check the body.

    Raises:
        BadRequest: it cannot be read.
        TooLarge: more texts than `max_items`.
        ValidationFailed: blank or too long a text, token ids, an unknown encoding.
    """
    form = read_form(_decoder, body)
    if isinstance(form.input, str):
        check_text(form.input, max_text_chars, "input")
        texts: tuple[str, ...] = (form.input,)
    else:
        texts = _check_list(form.input, max_items, max_text_chars)
    return EmbeddingsCall(form.model, texts, _encoding(form.encoding_format), form.dimensions)


def write_embeddings(response: InferResponse) -> bytes:
    """The answer with vectors as lists of numbers."""
    return _write(response, list(_rows(response)))


def write_embeddings_base64(response: InferResponse) -> bytes:
    """The answer with vectors as base64 of little-endian float32."""
    rows = np.ascontiguousarray(_rows(response), np.dtype("<f4"))
    return _write(response, [b64encode(row).decode() for row in rows])


WRITERS: Final[dict[Encoding, Callable[[InferResponse], bytes]]] = {
    "float": write_embeddings,
    "base64": write_embeddings_base64,
}


def _check_list(
    items: list[str | int | list[int]], max_items: int, max_text_chars: int
) -> tuple[str, ...]:
    if not items:
        raise ValidationFailed("input: there is no text", field="input")
    if len(items) > max_items:
        raise TooLarge("input", size=len(items), limit=max_items, unit="items", field="input")
    texts: list[str] = []
    for index, item in enumerate(items):
        place = f"input[{index}]"
        if not isinstance(item, str):
            raise ValidationFailed(
                f"{place}: token ids are not read here; send the text", field=place
            )
        check_text(item, max_text_chars, place)
        texts.append(item)
    return tuple(texts)


def _encoding(asked: str) -> Encoding:
    if asked == "float":
        return "float"
    if asked == "base64":
        return "base64"
    raise ValidationFailed(
        f"encoding_format: {asked[:40]!r} is neither 'float' nor 'base64'",
        field="encoding_format",
    )


def _check_dimensions(asked: int, manifest: Manifest) -> None:
    own = manifest.outputs[0].shape[-1]
    if asked != own:
        raise ValidationFailed(
            f"dimensions: vectors of {manifest.name} have {own}; they are not shortened",
            field="dimensions",
        )


def _rows(response: InferResponse) -> Array:
    data = response.outputs[0].data
    return np.ascontiguousarray(data.reshape(len(data), -1))


def _write(response: InferResponse, vectors: list[str] | list[Array]) -> bytes:
    return write_json(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(vectors)
            ],
            "model": response.model,
            "usage": {"prompt_tokens": response.tokens, "total_tokens": response.tokens},
        }
    )
