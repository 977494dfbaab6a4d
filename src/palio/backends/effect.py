"""Compares what was asked for with what is in effect, and makes the difference loud."""

from __future__ import annotations

from palio.backends.options import ALLOW_FALLBACK
from palio.core.errors import SettingsError
from palio.core.ports import Placement


def differences(requested: Placement, effective: Placement) -> list[str]:
    """Each thing that came out otherwise, as `what: asked, but got`."""
    pairs: list[tuple[str, object, object]] = [
        ("device", requested.device, effective.device),
        ("precision", requested.precision, effective.precision),
        ("threads", requested.threads, effective.threads),
    ]
    if requested.providers:
        pairs.append(("providers", ", ".join(requested.providers), ", ".join(effective.providers)))
    pairs += [
        (name, asked, effective.options.get(name))
        for name, asked in requested.options.items()
        if name != ALLOW_FALLBACK
    ]
    return [
        f"{what} {_word(asked)} was asked for, but {_word(got)} is in effect"
        for what, asked, got in pairs
        if asked != got
    ]


def demand(
    backend: str, model: str, requested: Placement, effective: Placement, *, allow_fallback: bool
) -> None:
    """Raise `SettingsError` if anything differs, unless that was allowed in so many words."""
    found = [] if allow_fallback else differences(requested, effective)
    if found:
        raise SettingsError(
            f"{model} on {backend}: {'; '.join(found)}. "
            "Ask for what there is, or set `allow_fallback: true`"
        )


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else str(value)
