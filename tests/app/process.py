"""`palio` as its users run it: a process of its own, with a URL and a log on stderr."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.answers import Answer

PATIENCE_S = 60
PALIO = (sys.executable, "-m", "palio.cli")
_READY = re.compile(r"palio is ready at (\S+)")


@dataclass(frozen=True, slots=True)
class Served:
    """A server process that has said it is ready; `said` is what it printed until then."""

    process: subprocess.Popen[str]
    url: str
    said: tuple[str, ...]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ask(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """GET, or POST if there is a body, on a connection of its own."""
        connection = self.connect()
        try:
            return ask_on(connection, path, body, headers)
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def open_socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def wait_for_line(self, line: str) -> None:
        """Read what it prints up to a line."""
        assert self.process.stdout is not None
        for said in self.process.stdout:
            if line in said:
                return
        raise AssertionError(f"it ended without saying {line!r}:\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and give its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def log_lines(self) -> list[dict[str, Any]]:
        """Every line of its stderr; each must be a JSON object. Complete once it has stopped."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def ask_on(
    connection: http.client.HTTPConnection,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """GET, or POST if there is a body, on a connection that may be asked again."""
    if body is None:
        connection.request("GET", path, headers=dict(headers or {}))
    else:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        connection.request("POST", path, data, given)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, found, response.read())


def environment(**changes: str) -> dict[str, str]:
    """Ours without settings for Palio, but with its cache; wide output without colours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PALIO_CACHE" or not name.startswith("PALIO_")
    }
    return {**kept, "COLUMNS": "160", "TERM": "dumb", **changes}


@contextmanager
def serving(folder: Path, *arguments: str, **environ: str) -> Iterator[Served]:
    """`palio serve …` from inside `folder`, on any free port unless told, ended in any case."""
    command = [*PALIO, "serve", *arguments]
    if not {"--http-port", "--unix-socket"} & set(arguments):
        command += ["--http-port", "0"]
    log = folder / "stderr.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
            env=environment(**environ),
        )
    try:
        yield _when_ready(process, log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _when_ready(process: subprocess.Popen[str], log: Path) -> Served:
    assert process.stdout is not None
    said: list[str] = []
    impatience = threading.Timer(PATIENCE_S, process.kill)
    impatience.start()
    try:
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if found := _READY.search(line):
                return Served(process, found[1], tuple(said), log)
    finally:
        impatience.cancel()
    raise AssertionError(f"it ended without being ready:\n{log.read_text()}")


def run_palio(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(  # noqa: S603  (our own words, no shell)
        [*PALIO, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**environ),
        timeout=PATIENCE_S,
        check=False,
    )


def samples_of(page: str) -> dict[str, float]:
    """A metrics page as sample → value."""
    pairs = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def metrics_of(served: Served) -> dict[str, float]:
    return samples_of(served.ask("/metrics").body.decode())


def toy_rows(*rows: float) -> dict[str, Any]:
    """The body of a question to zoo:toy: one row of four for each number."""
    data = [value for row in rows for value in (row, 1.0, 2.0, 3.0)]
    tensor = {"name": "x", "shape": [len(rows), 4], "datatype": "FP32", "data": data}
    return {"inputs": [tensor]}


TOY_INFER = "/v2/models/toy/infer"
EMBED = "/v1/embeddings"
