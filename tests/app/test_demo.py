"""`palio demo`, as somebody sees it who has just cloned the house."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.app.process import PALIO, PATIENCE_S, environment

pytestmark = [pytest.mark.wire, pytest.mark.model, pytest.mark.slow]

PAIRS = {
    "Is my money going to cost more to borrow?": (
        "The central bank raised interest rates by a quarter of a point."
    ),
    "When can I get to my flight?": "The train to the airport leaves every twenty minutes.",
    "My dog likes to nap on furniture.": (
        "Our puppy sleeps on the sofa whenever nobody is looking."
    ),
}
# How a terminal is told to move and to colour.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class Terminal:
    """A demo that believes somebody is watching; `seen` is what it has shown so far."""

    process: subprocess.Popen[bytes]
    fd: int
    seen: str = ""

    def read_until(self, text: str) -> None:
        while text not in self.seen:
            self._read()

    def read_to_the_end(self) -> None:
        # Linux says EIO once nobody has the other side open any more.
        with suppress(EOFError):
            while True:
                self._read()

    def press_ctrl_c(self) -> None:
        os.write(self.fd, b"\x03")

    def _read(self) -> None:
        try:
            data = os.read(self.fd, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            raise EOFError(f"it ended, having said:\n{self.seen}")
        self.seen += _CONTROL.sub("", data.decode(errors="replace").replace("\r\n", "\n"))


@contextmanager
def demo_on_a_terminal(folder: Path, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
        [*PALIO, "demo", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment(TERM="xterm", NO_COLOR="1"),
        start_new_session=True,
        preexec_fn=_take_the_terminal,
    )
    os.close(theirs)
    impatience = threading.Timer(PATIENCE_S, process.kill)
    impatience.start()
    try:
        yield Terminal(process, ours)
    finally:
        impatience.cancel()
        # Its servers are of its group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def _take_the_terminal() -> None:
    """Make it the controlling one, so that Ctrl-C reaches the process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(scope="module")
def shown(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one whole demo showed."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ("--once", "--seconds", "0.3", "--http-port", "0")
    with demo_on_a_terminal(folder, *arguments) as terminal:
        terminal.read_to_the_end()
        assert terminal.process.wait(PATIENCE_S) == 0, terminal.seen
    return terminal.seen


def test_the_demo_leaves_even_a_terminal_when_told_to_do_it_once(shown: str) -> None:
    assert "Serving until Ctrl-C." not in shown


def test_the_demo_finds_the_sentence_a_person_would_call_nearest(shown: str) -> None:
    for asked, nearest in PAIRS.items():
        (line,) = [line for line in shown.splitlines() if asked in line]
        assert nearest in line


def test_the_demo_measures_six_cells_without_a_failure(shown: str) -> None:
    rows = re.findall(
        r"│ +(\d+) │ (off|on) +│ +(\d*) │ +~?([\d.]*) │ +~?([\d.]*) │ +([\d.]*) │ (\w+)", shown
    )
    assert [row[:2] for row in rows] == [
        (callers, batching) for callers in ("1", "8", "32") for batching in ("off", "on")
    ]
    kept = [row for row in rows if row[6] == "OK"]
    # A busy machine may keep a trial from settling; then its row says so and shows no number.
    assert len(kept) >= 4, rows
    for _, batching, per_s, p50, p99, batch, _ in kept:
        assert int(per_s) > 0
        assert 0 < float(p50) <= float(p99)
        assert float(batch) >= 1 if batching == "on" else float(batch) == 1
    assert all(not row[2] for row in rows if row[6] != "OK"), "a number without its verdict"


def test_the_demo_names_a_line_to_ask_it_yourself(shown: str) -> None:
    (url,) = re.findall(r"served at (http://\S+),", shown)
    assert f"curl {url}/v1/embeddings" in shown


def test_the_demo_measures_for_as_long_as_it_was_told(shown: str) -> None:
    assert "0.3 s a row" in shown


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_the_demo_serves_on_at_the_port_it_was_given_until_ctrl_c(
    minilm: Path, tmp_path: Path
) -> None:
    port = free_port()
    arguments = ("--seconds", "0.1", "--http-port", str(port))
    with demo_on_a_terminal(tmp_path, *arguments) as terminal:
        terminal.read_until("Serving until Ctrl-C.")
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        terminal.press_ctrl_c()
        terminal.read_to_the_end()
        assert terminal.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in terminal.seen
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_demo_that_is_told_to_end_takes_its_servers_with_it(minilm: Path, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
        [*PALIO, "demo", "--once", "--http-port", str(port)],
        stdout=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED="1"),
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        assert b"is served at" in process.stdout.readline()
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM
