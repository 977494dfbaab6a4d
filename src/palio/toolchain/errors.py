"""Why a model could not be fetched or built; each message says what to do about it.

ToolchainError
├── UnknownReference   no such model, path or scheme; names the nearest
├── SourceFailed       one source did not give the file
│   └── WrongContent   it gave another file than was promised
├── NoSourceWorked     every source of a file failed
├── BadModel           a file is not a model, or not one that can be served
├── BadManifest        a manifest.json cannot be read
├── CacheUnusable      the cache folder cannot be written
│   └── DiskFull       there is no room in it
└── CacheBusy          another process holds a lock for too long

These stop a start or a command; none reaches a caller of the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final


class ToolchainError(Exception):
    """Root of everything that can go wrong while a model is made."""


class UnknownReference(ToolchainError):
    """No model, path or scheme of that name."""


class SourceFailed(ToolchainError):
    """One source did not give the file; the next one may."""


class WrongContent(SourceFailed):
    """A file came, but not the one that was promised."""

    def __init__(self, what: str, *, wanted_sha256: str, found_sha256: str) -> None:
        super().__init__(
            f"{what} has sha256 {found_sha256[:12]}…, but {wanted_sha256[:12]}… was promised; "
            "nothing was kept of it"
        )
        self.wanted_sha256: Final = wanted_sha256
        self.found_sha256: Final = found_sha256


class NoSourceWorked(ToolchainError):
    """Every source of a file failed; `failures` pairs each with its reason."""

    def __init__(
        self, name: str, sha256: str, failures: Sequence[tuple[str, SourceFailed]]
    ) -> None:
        lines = "".join(f"\n  {source}: {reason}" for source, reason in failures)
        super().__init__(
            f"no source gave {name}:{lines}\n"
            "Check the network and run it again (what has come so far is kept), or get the file "
            f"whose sha256 is {sha256} by other means and put it into the cache's blobs folder "
            "under that name."
        )
        self.failures: Final = tuple(failures)


class BadModel(ToolchainError):
    """A file is not a model, or not one that can be served."""


class BadManifest(ToolchainError):
    """A manifest.json cannot be read; the message names the file and the key."""


class CacheUnusable(ToolchainError):
    """The cache folder cannot be made or written."""


class DiskFull(CacheUnusable):
    """There is no room for a file in the cache."""

    def __init__(self, folder: Path, *, needed_bytes: int | None, free_bytes: int | None) -> None:
        needed = "more bytes" if needed_bytes is None else f"{needed_bytes:,} bytes"
        free = "" if free_bytes is None else f" ({free_bytes:,} are free)"
        super().__init__(
            f"no room in {folder}: {needed} are needed{free}, or a file of that size is not "
            "allowed here (ulimit -f). Make room, or name another folder with PALIO_CACHE."
        )
        self.folder: Final = folder
        self.needed_bytes: Final = needed_bytes


class CacheBusy(ToolchainError):
    """Another process has held a lock of the cache for too long."""

    def __init__(self, lock: Path, *, waited_s: float) -> None:
        super().__init__(
            f"another process has held {lock} for {waited_s:g} s: it is fetching or building the "
            "same file. Wait for it or stop it; a lock ends with its process, so never delete one."
        )
        self.lock: Final = lock
