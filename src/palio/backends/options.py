"""Reads the options a user gives a backend: every one is known and of its kind, or the start stops.

Options come from `models.*.options` in the settings, as text, numbers and booleans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from palio.backends.nearest import did_you_mean
from palio.core.errors import SettingsError

ALLOW_FALLBACK: Final = "allow_fallback"

Given = Mapping[str, str | int | bool]


class Options:
    """One backend's options; take each by its kind, having refused those it does not know."""

    __slots__ = ("_backend", "_given")

    def __init__(self, backend: str, given: Given, known: tuple[str, ...]) -> None:
        for name in given:
            if name not in known and name != ALLOW_FALLBACK:
                raise SettingsError(
                    f"backend {backend!r} has no option {name!r}{did_you_mean(name, known)} "
                    f"(known: {', '.join(known)})"
                )
        self._backend: Final = backend
        self._given: Final = given

    def __contains__(self, name: str) -> bool:
        return name in self._given

    @property
    def allow_fallback(self) -> bool:
        """Whether less than was asked for will do."""
        return self.flag(ALLOW_FALLBACK, default=False)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._given.get(name, default)
        if not isinstance(value, bool):
            raise self._refuse(name, "true or false")
        return value

    def whole(self, name: str, *, default: int, at_least: int = 0) -> int:
        """A whole number."""
        value = self._given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise self._refuse(name, f"a whole number ≥ {at_least}")
        return value

    def choice(self, name: str, among: tuple[str, ...], *, default: str) -> str:
        """One of a few words."""
        value = self._given.get(name, default)
        if not isinstance(value, str) or value not in among:
            raise self._refuse(name, " or ".join(among))
        return value

    def number(self, name: str) -> float | None:
        """Any number, fractions and text that reads as one included; None where not given."""
        value = self._given.get(name)
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._refuse(name, "a number")
        return number

    def milliseconds(self, name: str, *, default: float = 0.0) -> float:
        """A duration in milliseconds, as seconds."""
        value = self.number(name)
        if value is not None and value < 0:
            raise self._refuse(name, "a number ≥ 0")
        return (default if value is None else value) / 1e3

    def _refuse(self, name: str, wanted: str) -> SettingsError:
        got = self._given[name]
        return SettingsError(f"backend {self._backend!r}: {name} must be {wanted} (got {got!r})")
