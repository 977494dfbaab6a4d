"""What a text must be before a model is asked about it, whichever form it came in."""

from __future__ import annotations

from collections.abc import Iterable

from palio.core.errors import BadRequest, ValidationFailed
from palio.core.tensors import Array


def check_text(text: str, max_chars: int, field: str) -> None:
    """Raises `ValidationFailed` for a blank text or one of more than `max_chars` characters."""
    if not text or text.isspace():
        raise ValidationFailed(f"{field}: the text is blank", field=field)
    if len(text) > max_chars:
        raise ValidationFailed(
            f"{field}: the text has {len(text)} characters, over the limit of {max_chars}",
            field=field,
        )


def read_texts(data: Array, max_chars: int, field: str) -> list[str]:
    """The elements of a BYTES tensor as texts, each held to `check_text`.

    Raises:
        BadRequest: one is not UTF-8; `field` names it.
        ValidationFailed: one is blank or too long; `field` names it.
    """
    texts: list[str] = []
    elements: Iterable[bytes | str] = data.ravel()
    for index, element in enumerate(elements):
        place = f"{field}[{index}]"
        try:
            text = element if isinstance(element, str) else element.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"{place}: the text is not UTF-8", field=place) from None
        check_text(text, max_chars, place)
        texts.append(text)
    return texts
