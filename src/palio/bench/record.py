"""One folder per trial, written while it runs and readable wherever it was cut off.

The recorder keeps raw attempts and says what they belong to. Percentiles, rates and everything
else that can be computed from them is computed when somebody asks, and is never in the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from palio.bench import attempts_file
from palio.bench.attempts import I64, Attempts
from palio.bench.manifest import (
    FILE,
    Manifest,
    UnreadableTrial,
    read_manifest,
    write_manifest,
)
from palio.bench.resources import Sample, read_samples
from palio.bench.verdict import Verdict
from palio.core.errors import SettingsError

SCHEDULE: Final = "schedule.npy"
RESOURCES: Final = "resources.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a folder holds. `torn` says what of it could not be used; empty if all could."""

    folder: Path
    manifest: Manifest
    attempts: Attempts
    torn: str = ""
    schedule: I64 | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end; otherwise there is no verdict and so no number."""
        return self.manifest.is_finished

    @property
    def unrecorded(self) -> int | None:
        """How many scheduled attempts left no row; None if there was no schedule."""
        return None if self.schedule is None else len(self.schedule) - len(self.attempts)


def _now() -> datetime:
    return datetime.now(UTC)


class Recorder:
    """Writes one trial. Use as `with`; what is left without `finish` is an unfinished trial.

    `add` writes at once and without a buffer: what it was given survives the end of this process,
    though not the loss of power. A chunk of 4,096 attempts takes about half a millisecond, most
    of it outside the interpreter's lock: `add` may be called from another thread, one
    call at a time.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        schedule: I64 | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        """Begin the trial: the folder, its manifest and its schedule are there before a request.

        Raises:
            SettingsError: the folder cannot be written, or holds a trial already: none is ever
                written over.
        """
        self.folder = folder
        self.manifest = manifest
        self._now = now
        try:
            self._file = _begin(folder, manifest, schedule)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SettingsError(f"cannot record a trial in {folder}: {reason}") from error
        self._is_open = True
        self._whole_bytes = 0
        self._write(attempts_file.head())

    @property
    def resources(self) -> Path:
        """Where the sampler of this trial is to write."""
        return self.folder / RESOURCES

    def add(self, attempts: Attempts) -> None:
        """Keep some attempts that are over, in any order.

        Raises:
            OSError: they could not be written; what was kept before is as it was.
        """
        if len(attempts):
            self._write(attempts_file.chunk(attempts))

    def settle(self, attempts: Attempts) -> None:
        """All attempts as they are known at the end, in place of those added while it ran.

        Answers are looked at after the run, so an attempt that was added as good may be wrong.
        The old file stays until the new one is whole.
        """
        fresh = self.folder / f"{attempts_file.FILE}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        os.close(self._file)
        self._file = descriptor
        self._whole_bytes = 0
        self._write(attempts_file.head())
        self.add(attempts)
        os.fsync(descriptor)
        fresh.replace(self.folder / attempts_file.FILE)

    def finish(self, verdict: Verdict) -> None:
        """All attempts are in: mark the trial as finished and say what it is worth.

        It may come after `close`, when judging has taken its time.
        """
        self.close()
        self.manifest = self.manifest.finished(verdict, self._now())
        write_manifest(self.folder, self.manifest)

    def close(self) -> None:
        """Take no more attempts. Without `finish` the trial stays unfinished."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            # Half a chunk would hide all that come after it.
            os.ftruncate(self._file, self._whole_bytes)
            raise
        self._whole_bytes += len(content)


def _begin(folder: Path, manifest: Manifest, schedule: I64 | None) -> int:
    """What is there before the first attempt, and the open file for attempts."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / FILE).exists():
        raise SettingsError(f"{folder} already holds a trial; name another folder")
    write_manifest(folder, manifest)
    if schedule is not None:
        np.save(folder / SCHEDULE, schedule)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    return os.open(folder / attempts_file.FILE, flags, 0o644)


def read_trial(folder: Path) -> Trial:
    """What was recorded, whether the run came to its end or was cut off anywhere.

    Raises:
        UnreadableTrial: no trial was begun in the folder, or another version wrote it.
    """
    manifest = read_manifest(folder)
    recovered = attempts_file.read(folder / attempts_file.FILE)
    return Trial(
        folder=folder,
        manifest=manifest,
        attempts=recovered.attempts,
        torn=recovered.torn,
        schedule=_schedule(folder / SCHEDULE),
        samples=read_samples(folder / RESOURCES),
    )


def _schedule(path: Path) -> I64 | None:
    """The intended times; None if there are none, or a kill left half of them."""
    try:
        schedule: I64 = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return schedule


__all__ = ["Manifest", "Recorder", "Trial", "UnreadableTrial", "read_trial"]
