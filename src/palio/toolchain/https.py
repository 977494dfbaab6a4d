"""Downloads over https that go on where an earlier try stopped."""

from __future__ import annotations

import ssl
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from palio.toolchain.digests import CHUNK_BYTES
from palio.toolchain.disk import writing
from palio.toolchain.errors import SourceFailed
from palio.toolchain.progress import Progress
from palio.toolchain.sources import Wanted

_TRIES: Final = 3
_RANGE_NOT_SATISFIABLE: Final = 416
_PARTIAL: Final = 206


class _Answer(Protocol):
    status: int
    headers: HTTPMessage

    def read1(self, n: int) -> bytes: ...
    def close(self) -> None: ...


class _Interrupted(SourceFailed):
    """The connection ended early; what came is kept."""


class _HttpsRedirects(HTTPRedirectHandler):
    """Follows a server that sends us elsewhere, as long as it stays on https."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise SourceFailed(f"it redirects to {newurl}, which is not https; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Https:
    """Speaks https and nothing else; proxies are taken from the environment, as everywhere."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, timeout_s: float = 30) -> None:
        self._timeout_s = timeout_s
        self._opener = OpenerDirector()
        # Written out, because the usual opener would also follow http:, ftp: and file:.
        for handler in (
            ProxyHandler(),
            HTTPSHandler(context=tls or ssl.create_default_context()),
            HTTPDefaultErrorHandler(),
            _HttpsRedirects(),
            HTTPErrorProcessor(),
        ):
            self._opener.add_handler(handler)

    def download(self, url: str, part: Path, wanted: Wanted, progress: Progress) -> None:
        """Bring `part` to its full length, from wherever it stands.

        A connection that ends early is taken up again, a few times, as long as it brings anything.

        Raises:
            SourceFailed: the server refuses, or cannot be reached; what came is kept.
        """
        for tries_left in reversed(range(_TRIES)):
            before = _size(part)
            if before and before == wanted.size_bytes:
                return
            try:
                self._receive(url, part, wanted, progress)
            except _Interrupted:
                if not tries_left or _size(part) <= before:
                    raise
            else:
                return

    def _receive(self, url: str, part: Path, wanted: Wanted, progress: Progress) -> None:
        have = _size(part)
        answer = self._ask(url, have)
        if answer is None:
            part.unlink()
            have, answer = 0, self._ask(url, 0)
        if answer is None:
            raise SourceFailed("the server has no byte of it to give")
        try:
            if answer.status != _PARTIAL:
                have = 0
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise SourceFailed("the server sent another range than it was asked for")
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length and length.isdecimal() else wanted.size_bytes
            _drain(answer, part, have, total, wanted.name, progress)
        finally:
            answer.close()

    def _ask(self, url: str, have: int) -> _Answer | None:
        """The server's answer; None if it says that nothing follows what we have."""
        headers = {"User-Agent": "palio", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        request = Request(url, headers=headers)  # noqa: S310  (the opener speaks only https)
        try:
            answer: _Answer = self._opener.open(request, timeout=self._timeout_s)
        except HTTPError as error:
            error.close()
            if error.code == _RANGE_NOT_SATISFIABLE and have:
                return None
            raise SourceFailed(f"the server answered {error.code} {error.reason}") from error
        except (URLError, HTTPException, OSError) as error:
            raise SourceFailed(f"no answer: {getattr(error, 'reason', error)}") from error
        return answer


def _drain(
    answer: _Answer, part: Path, have: int, total: int | None, label: str, progress: Progress
) -> None:
    progress.start(f"fetch {label}", total)
    try:
        with writing(part.parent, None if total is None else total - have):
            target = part.open("r+b" if have else "wb", buffering=0)
        with target:
            target.seek(have)
            progress.advance(have)
            while chunk := _read(answer, have, total):
                with writing(part.parent, None if total is None else total - have):
                    _write_all(target, chunk)
                have += len(chunk)
                progress.advance(len(chunk))
    finally:
        progress.done()
    if total is not None and have != total:
        raise _Interrupted(f"the connection ended after {have:,} of {total:,} bytes")


def _read(answer: _Answer, have: int, total: int | None) -> bytes:
    try:
        # What is there now, not a full chunk: a killed process has then kept nearly all that came.
        return answer.read1(CHUNK_BYTES)
    except (HTTPException, OSError) as error:
        of = "" if total is None else f" of {total:,}"
        raise _Interrupted(f"the connection broke after {have:,}{of} bytes: {error}") from error


def _write_all(target: IO[bytes], chunk: bytes) -> None:
    # Unbuffered, so that a killed process loses nothing that came, and every byte is tried here.
    view = memoryview(chunk)
    while view:
        view = view[target.write(view) :]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
