"""What a file is, by its sha256; and the cheap stamp that says it has not been touched since."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from palio.toolchain.progress import Progress, Silent

CHUNK_BYTES: Final = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_text(*parts: str) -> str:
    """One sha256 over several texts, no two lists of which run together."""
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def copy_hashed(
    source: IO[bytes], target: IO[bytes], progress: Progress | None = None
) -> tuple[str, int]:
    """Copy a stream to its end; the sha256 and the number of the bytes that went by."""
    watcher = progress or Silent()
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
        size += len(chunk)
        watcher.advance(len(chunk))
    return digest.hexdigest(), size


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size and time of change: equal stamps mean that nobody wrote the file in between.

    Bits that rot on the disk leave the stamp as it was; only a digest finds those.
    """

    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)
