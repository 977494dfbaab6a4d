"""Stand-ins for where files come from: a loopback https server with a gate, wheels, a watcher."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

from palio.toolchain.sources import HttpsSource, Wanted, Wheel


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `code`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(  # noqa: S603  (our own words, no shell)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


class Watcher:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.stretches: list[tuple[str, int | None]] = []
        self.seen_bytes = 0
        self.is_open = False

    def start(self, label: str, total_bytes: int | None) -> None:
        assert not self.is_open
        self.stretches.append((label, total_bytes))
        self.seen_bytes, self.is_open = 0, True

    def advance(self, n_bytes: int) -> None:
        assert self.is_open
        self.seen_bytes += n_bytes

    def done(self) -> None:
        self.is_open = False


@dataclass(slots=True)
class Shop:
    """What a test's https server hands out, and what it was asked for."""

    data: bytes
    port: int = 0
    authority: str = ""
    # The connection is dropped after so many bytes of the body, once for each entry.
    breaks_after: list[int] = field(default_factory=list)
    # With a gate, the first answer stops after half of the body until it is opened.
    gate: threading.Event | None = None
    ranges: list[str | None] = field(default_factory=list)
    honours_ranges: bool = True
    redirect: str = ""
    status: int = 200

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/file"

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority)

    def wanted(self, sha: str = "") -> Wanted:
        return Wanted(
            name="parcel", sha256=sha or sha256(self.data), sources=(HttpsSource(self.url),)
        )


def _handler(shop: Shop) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            shop.ranges.append(asked)
            begin = _begin(asked) if shop.honours_ranges else 0
            if shop.redirect:
                self.send_response(302)
                self.send_header("Location", shop.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif shop.status != 200 or begin >= len(shop.data):
                self.send_error(416 if shop.status == 200 else shop.status)
            else:
                self._send(begin)

        def _send(self, begin: int) -> None:
            body = shop.data[begin:]
            self.send_response(206 if begin else 200)
            if begin:
                total = len(shop.data)
                self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if shop.breaks_after:
                self.wfile.write(body[: shop.breaks_after.pop(0)])
                self.close_connection = True
            elif shop.gate is not None and len(shop.ranges) == 1:
                half = len(body) // 2
                self.wfile.write(body[:half])
                shop.gate.wait(30)
            else:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
            """Say nothing."""

    return Handler


def _begin(asked: str | None) -> int:
    return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0


@contextmanager
def open_shop(data: bytes) -> Iterator[Shop]:
    """An https server on loopback, trusted by whoever uses its `tls`."""
    authority = trustme.CA()
    shop = Shop(data, authority=authority.cert_pem.bytes().decode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with ThreadingHTTPServer(("localhost", 0), _handler(shop)) as server:
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # a killed client is what we want
        server.socket = context.wrap_socket(server.socket, server_side=True)
        shop.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield shop
        finally:
            if shop.gate is not None:
                shop.gate.set()
            server.shutdown()
            thread.join()


def make_wheel(folder: Path, files: dict[str, bytes]) -> tuple[Path, Wheel]:
    """A wheel that pip accepts, with these files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "parcel-1.0-py3-none-any.whl"
    info = "parcel-1.0.dist-info"
    texts = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (files | texts).items():
            archive.writestr(name, data)
    return path, Wheel("parcel", "1.0", sha256(path.read_bytes()), path.stat().st_size)


def fake_pip(folder: Path, wheel: Path) -> tuple[Path, Path]:
    """A script that acts as pip does, and the file in which it counts its calls."""
    script, log = folder / "pip.py", folder / "pip.log"
    script.write_text(
        "import shutil, sys, pathlib\n"
        "arguments = sys.argv[1:]\n"
        "target = pathlib.Path(arguments[arguments.index('-d') + 1])\n"
        "target.mkdir()\n"
        f"shutil.copy({json.dumps(str(wheel))}, target)\n"
        f"with open({json.dumps(str(log))}, 'a') as stream: stream.write('called\\n')\n",
        encoding="utf-8",
    )
    return script, log
