"""Reads a JSON body into a typed form; whatever is wrong with it becomes one `BadRequest`."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from palio.core.errors import BadRequest

T = TypeVar("T")

_path_at_end: Final = re.compile(r"(?s)(.*) - at `\$(?:\.)?(.*)`$").fullmatch


def read_form(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw, field: str = "") -> T:
    """Decode strictly; the path in the error starts at `field`.

    Of keys given twice the last one counts, as in most JSON readers.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(error, field) from None
    except msgspec.DecodeError as error:
        what = "empty" if not body else f"not readable as JSON: {error}"
        raise BadRequest(f"the {field or 'body'} is {what}", field=field or None) from None
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the {field or 'body'} is not UTF-8: {error.reason}", field=field or None
        ) from None
    except RecursionError:
        raise BadRequest(
            f"the {field or 'body'} is nested too deeply", field=field or None
        ) from None


def _misfit(error: msgspec.ValidationError, field: str) -> BadRequest:
    """A readable value of the wrong kind; msgspec names its place at the end of the message."""
    found = _path_at_end(str(error))
    what, inner = (found[1], found[2]) if found else (str(error), "")
    path = f"{field}{inner}" if inner.startswith("[") or not field else f"{field}.{inner}"
    path = path.strip(".")
    return BadRequest(f"{path}: {what}" if path else what, field=path or None)
