"""Finds a backend by name, among ours and those that other packages bring.

A package brings one by an entry point in the group `palio.backends`, whose name is the backend's
and whose object is a `palio.core.ports.LoadBackend`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from palio.backends.nearest import did_you_mean
from palio.core.errors import SettingsError
from palio.core.ports import LoadBackend

GROUP: Final = "palio.backends"

# Also declared in pyproject.toml, for others to see; written out here so that a checkout that
# was never installed can serve. A test holds the two together.
OURS: Final = {
    "onnxruntime": "palio.backends.onnxruntime:load",
    "toy": "palio.backends.toy:load",
}


def installed_backends() -> tuple[str, ...]:
    """The name of every backend that can be asked for here."""
    return tuple(sorted(_by_name()))


def find_backend(name: str) -> LoadBackend:
    """The backend called `name`; its imports happen now and not before.

    Raises:
        SettingsError: unknown, claimed by two packages, or lacking something that pip can bring.
    """
    known = _by_name()
    if name not in known:
        raise SettingsError(
            f"there is no backend {name!r}{did_you_mean(name, known)} "
            f"(installed: {', '.join(sorted(known))})"
        )
    entries = known[name]
    if len(entries) > 1:
        claims = " and ".join(f"{entry.value} ({_package(entry)})" for entry in entries)
        raise SettingsError(f"two packages bring a backend {name!r}: {claims}; uninstall one")
    (entry,) = entries
    try:
        load = entry.load()
    except ImportError as missing:
        raise SettingsError(
            f"backend {name!r} needs {missing.name or missing}, which is not installed: "
            f"{_pip_line(entry)}"
        ) from missing
    except AttributeError as absent:
        raise SettingsError(f"backend {name!r}: nothing at {entry.value}") from absent
    if not callable(load):
        raise SettingsError(f"backend {name!r}: {entry.value} is not a callable that loads a model")
    return cast("LoadBackend", load)


def _by_name() -> dict[str, list[EntryPoint]]:
    """Every claim on every name, each place in code counted once."""
    ours = [EntryPoint(name, value, GROUP) for name, value in OURS.items()]
    claims: dict[str, dict[str, EntryPoint]] = {}
    for entry in (*ours, *entry_points(group=GROUP)):
        claims.setdefault(entry.name, {})[entry.value] = entry
    return {name: list(by_value.values()) for name, by_value in claims.items()}


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "palio"


def _pip_line(entry: EntryPoint) -> str:
    """An entry point may name the extra it needs, as in `name = module:object [extra]`."""
    extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
    return f"pip install '{_package(entry)}{extras}'"
