"""Says where on this machine things are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "PALIO_CACHE"


def cache_root(environ: Mapping[str, str]) -> Path:
    """The folder for downloads and built models: `PALIO_CACHE`, or where XDG puts caches."""
    if chosen := environ.get(CACHE_VARIABLE):
        return Path(chosen)
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path there is to be ignored.
    if Path(base).is_absolute():
        return Path(base) / "palio"
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".cache" / "palio"
