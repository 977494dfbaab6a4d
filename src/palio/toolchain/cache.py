"""The cache of fetched files and built models, safe to share and to kill.

    blobs/SHA256      fetched files, named by their content
    builds/KEY/       finished models; a folder appears there whole or not at all
    parts/SHA256      downloads that stopped half-way, for the next try to go on with
    tmp/              work under way; swept when its process is gone
    locks/            one file for each thing being made; a lock ends with its process
    quarantine/       the last wrong content found under each name, for whoever wonders

A file is written in tmp/ or parts/, hashed, seen onto the disk and then renamed into place, so a
reader never meets half of one. Blobs are hashed again at every build. Builds are hashed when
they are made and whenever the stamp (size and time of change) of one of their files differs; a
start that finds the stamps as they were reads nothing else, takes no lock and writes nothing, so
that it is fast and works on a read-only cache.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from palio.toolchain.digests import Stamp, sha256_of
from palio.toolchain.disk import move_into_place, settle, write_whole, writing
from palio.toolchain.errors import BadManifest, BadModel, CacheBusy, WrongContent
from palio.toolchain.manifests import MANIFEST_FILE, read_manifest, verify_files

_STAMPS: Final = ".stamps.json"


class Cache:
    """Files by content and models by key, under one folder that may not exist yet."""

    def __init__(self, root: Path, *, lock_timeout_s: float = 600) -> None:
        self.root: Final = root
        self._lock_timeout_s = lock_timeout_s

    def blob(self, sha256: str) -> Path | None:
        """The file with this content, read through and compared; None if it is not here.

        One with other content is put into quarantine. Call it with the blob's lock held.
        """
        path = self._room("blobs") / sha256
        if not path.is_file():
            return None
        if sha256_of(path) == sha256:
            return path
        self._quarantine(path)
        return None

    def put_blob(self, source: Path, sha256: str) -> Path:
        """Take a finished file of this cache's disk into the blobs.

        Raises:
            WrongContent: it is another file; `source` is deleted.
        """
        found = sha256_of(source)
        if found != sha256:
            source.unlink()
            raise WrongContent(source.name, wanted_sha256=sha256, found_sha256=found)
        target = self._room("blobs") / sha256
        with writing(self.root):
            move_into_place(source, target)
        return target

    def part(self, sha256: str) -> Path:
        """Where a download of this content is collected. Call it with the blob's lock held."""
        return self._room("parts") / sha256

    def build(self, key: str, make: Callable[[Path], None]) -> Path:
        """The finished folder of this key, made now by `make` if there is no sound one.

        `make` fills an empty folder, manifest.json included. Two processes that want the same
        key make it once.
        """
        folder = self.root / "builds" / key
        if self._is_untouched(folder):
            return folder
        with self.lock(f"build-{key}"):
            if self._is_sound(folder):
                return folder
            if folder.exists():
                self._quarantine(folder)
            with self.workspace(key) as work:
                fresh = work / "build"
                with writing(self.root):
                    fresh.mkdir()
                    make(fresh)
                    verify_files(fresh, read_manifest(fresh))
                    self._stamp(fresh)
                    for path in fresh.iterdir():
                        settle(path)
                    self._room("builds")
                    move_into_place(fresh, folder)
        return folder

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the one right to make something.

        Raises:
            CacheBusy: another process did not let go of it in time.
        """
        path = self._room("locks") / f"{name}.lock"
        with ExitStack() as held:
            try:
                with writing(self.root):
                    held.enter_context(FileLock(path, timeout=self._lock_timeout_s))
            except Timeout:
                raise CacheBusy(path, waited_s=self._lock_timeout_s) from None
            yield

    @contextmanager
    def workspace(self, label: str) -> Iterator[Path]:
        """An empty folder on the cache's disk that is gone afterwards, whatever happens.

        What killed processes left behind is swept on the way in.
        """
        self._sweep()
        name = f"{label[:40]}-{secrets.token_hex(8)}"
        lock = self._room("locks") / f"tmp-{name}.lock"
        folder = self._room("tmp") / name
        # The lock first: whoever sees the folder and gets the lock knows its owner is dead.
        with writing(self.root), FileLock(lock):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)

    def _sweep(self) -> None:
        for folder in self._room("tmp").iterdir():
            path = self._room("locks") / f"tmp-{folder.name}.lock"
            with suppress(Timeout, OSError), FileLock(path, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
                path.unlink(missing_ok=True)

    def _is_untouched(self, folder: Path) -> bool:
        """Whether every file of a build is as it was when it was last verified."""
        try:
            stamps = json.loads((folder / _STAMPS).read_bytes())
            return bool(stamps) and all(
                Stamp.of(folder / name) == Stamp(*stamp) for name, stamp in stamps.items()
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def _is_sound(self, folder: Path) -> bool:
        """Whether a build is right by content; one that is gets its stamps renewed."""
        if self._is_untouched(folder):
            return True
        try:
            verify_files(folder, read_manifest(folder))
        except (BadManifest, BadModel):
            return False
        # A read-only cache keeps its old stamps and is verified at every start.
        with suppress(OSError):
            self._stamp(folder)
        return True

    def _stamp(self, folder: Path) -> None:
        names = (MANIFEST_FILE, *read_manifest(folder).files)
        stamps = {name: Stamp.of(folder / name) for name in names}
        data = {name: (stamp.size_bytes, stamp.changed_ns) for name, stamp in stamps.items()}
        write_whole(folder / _STAMPS, json.dumps(data).encode())

    def _quarantine(self, path: Path) -> None:
        target = self._room("quarantine") / path.name
        with writing(self.root):
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)

    def _room(self, name: str) -> Path:
        path = self.root / name
        with writing(self.root):
            path.mkdir(parents=True, exist_ok=True)
        return path
