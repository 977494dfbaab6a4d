"""The command line: every flag does something, and what is wrong is said in one sentence."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cyclopts import App

from palio.cli import app
from tests.app.process import (
    TOY_INFER,
    environment,
    run_palio,
    serving,
    toy_rows,
)
from tests.server.house import get

Case = Callable[[Path], None]
Flag = tuple[str, str]


def flags_of(parent: App, at: str = "") -> Iterator[Flag]:
    """Every (command, flag or argument) there is, a flag by its first name."""
    for name, command in parent.resolved_commands().items():
        if name.startswith("-"):
            continue
        path = f"{at} {name}".strip()
        if command.default_command is None:
            yield from flags_of(command, path)
        else:
            for argument in command.assemble_argument_collection():
                yield path, argument.names[0]


def explained(folder: Path, *arguments: str) -> str:
    shown = run_palio(folder, "config", "explain", *arguments)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def a_source_is_served(folder: Path) -> None:
    (folder / "palio.yaml").write_text("models: {other: {source: zoo:toy, backend: toy}}\n")
    with serving(folder) as served:
        assert served.ask("/v2/models/other").status == 200
    with serving(folder, "zoo:toy") as served:
        assert served.ask("/v2/models/other").status == 404
        assert served.ask("/v2/models/toy").status == 200


def the_host_is_listened_on(folder: Path) -> None:
    with serving(folder, "zoo:toy", "--host", "127.0.0.2") as served:
        assert served.url.startswith("http://127.0.0.2:")
        with socket.create_connection(("127.0.0.2", served.port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            served.open_socket()


def the_port_is_listened_on(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(folder, "zoo:toy", "--http-port", str(port)) as served:
        assert served.port == port
        assert served.ask("/health").status == 200


def the_unix_socket_is_listened_on(folder: Path) -> None:
    path = folder / "palio.sock"
    with serving(folder, "zoo:toy", "--unix-socket", str(path)) as served:
        assert served.url == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5)
            caller.connect(str(path))
            caller.sendall(get("/health"))
            assert caller.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert served.stop() == 0
    assert not path.exists()


def a_setting_is_changed(folder: Path) -> None:
    for name in ("--set", "-s"):
        with serving(folder, "zoo:toy", name, "server.max_items=1") as served:
            assert served.ask(TOY_INFER, toy_rows(1.0)).status == 200
            assert served.ask(TOY_INFER, toy_rows(1.0, 2.0)).status == 413


def a_source_is_explained(folder: Path) -> None:
    assert "models.toy.source = zoo:toy  (argument zoo:toy)" in explained(folder, "zoo:toy")
    assert "models." not in explained(folder)


def a_change_is_explained(folder: Path) -> None:
    shown = explained(folder, "zoo:toy", "--set", "server.drain_s=3", "-s", "cpus=1")
    assert "server.drain_s = 3.0  (flag server.drain_s)" in shown
    assert "cpus = 1  (flag cpus)" in shown
    assert "server.drain_s = 10.0  (default)" in explained(folder, "zoo:toy")


def a_reference_is_built(folder: Path) -> None:
    built = run_palio(folder, "model", "build", "zoo:toy", PALIO_CACHE=str(folder / "cache"))
    assert built.returncode == 0
    place = Path(built.stdout.strip())
    assert (place / "manifest.json").is_file()
    assert place.is_relative_to(folder / "cache")


def arrivals_are_recorded(folder: Path) -> None:
    with serving(folder, "zoo:toy", "--record-arrivals", "arrivals.jsonl") as served:
        assert served.ask(TOY_INFER, toy_rows(1.0)).status == 200
        assert served.stop() == 0
    assert (folder / "arrivals.jsonl").read_text().count("\n") == 1


CASES: dict[Flag, Case | str] = {
    ("serve", "--record-arrivals"): arrivals_are_recorded,
    ("serve", "SOURCE"): a_source_is_served,
    ("serve", "--host"): the_host_is_listened_on,
    ("serve", "--http-port"): the_port_is_listened_on,
    ("serve", "--unix-socket"): the_unix_socket_is_listened_on,
    ("serve", "--set"): a_setting_is_changed,
    ("config explain", "SOURCE"): a_source_is_explained,
    ("config explain", "--set"): a_change_is_explained,
    ("model build", "REFERENCE"): a_reference_is_built,
    # Each of these is a test of tests/app/test_demo.py.
    ("demo", "--once"): "test_the_demo_leaves_even_a_terminal_when_told_to_do_it_once",
    ("demo", "--http-port"): "test_the_demo_serves_on_at_the_port_it_was_given_until_ctrl_c",
    ("demo", "--seconds"): "test_the_demo_measures_for_as_long_as_it_was_told",
}


def test_every_flag_of_every_command_has_a_case_that_shows_what_it_does() -> None:
    assert set(flags_of(app)) == set(CASES)
    demo = (Path(__file__).parent / "test_demo.py").read_text()
    assert not [name for name in CASES.values() if isinstance(name, str) and name not in demo]


@pytest.mark.wire
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{command} {flag}")
        for (command, flag), case in CASES.items()
        if not isinstance(case, str)
    ],
)
def test_a_flag_changes_what_happens(case: Case, tmp_path: Path) -> None:
    case(tmp_path)


@pytest.mark.wire
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("serve zoo:minilm-l7", "the zoo has no 'minilm-l7'; did you mean zoo:minilm-l6?"),
        ("serve zoo:toy --set server.htp_port=1", "did you mean server.http_port?"),
        ("serve zoo:toy -s models.toy.options.base=3", "did you mean base_ms?"),
        ("serve zoo:toy --set models.toy.backend=tory", "did you mean toy?"),
        ("serve zoo:toy --http-port 99999", "must be ≤ 65535"),
        ("serve zoo:toy --http-port eighty", '--http-port: unable to convert "eighty"'),
        ("serve zoo:toy --hots 0.0.0.0", "Unknown option: --hots. Did you mean --host?"),
        ("serve zoo:toy --set cpus", "write it as key=value"),
        ("serve zoo:toy --http-port {taken}", "address already in use; another address: --host"),
        ("serve zoo:toy --unix-socket /nowhere/palio", "cannot listen on /nowhere/palio"),
        ("serve zoo:toy --set cpus=1 --set models.toy.instances=2", "or write `cpus: 2`"),
        ("serve", "there is no model to serve; name one, as in `palio serve zoo:toy`"),
        ("serve missing.onnx", "missing.onnx does not exist"),
        ("serve missing.yaml", "cannot read missing.yaml"),
        ("serve nonsense", "nonsense: is nothing that can be served"),
        ("config explain missing.yaml", "cannot read missing.yaml"),
        ("model build zoo:minilm", "the zoo has no 'minilm'; did you mean zoo:minilm-l6?"),
        ("sevre zoo:toy", 'Unknown command "sevre"'),
    ],
)
def test_what_stops_a_start_is_said_in_one_sentence_with_status_2(
    tmp_path: Path, command: str, sentence: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = command.format(taken=taken.getsockname()[1]).split()
        ended = run_palio(tmp_path, *words)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("palio: ")
    assert sentence in line


HEAVY = (
    "asyncio", "numpy", "onnx", "onnxruntime", "pydantic", "rich.progress", "tokenizers", "uvloop"
)  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["--help"], ["serve", "--help"]])
def test_asking_for_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, palio.cli\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    palio.cli.main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    ended = subprocess.run(  # noqa: S603  (our own words, no shell)
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=True,
    )
    assert "Serve" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.wire
def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "palio.yaml").write_text(
        "server: {max_items: 1}\nmodels: {toy: {source: zoo:toy, backend: toy}}\n"
    )

    def most_rows(*arguments: str, **environ: str) -> int:
        with serving(tmp_path, *arguments, **environ) as served:
            statuses = [
                served.ask(TOY_INFER, toy_rows(*[1.0] * rows)).status for rows in (1, 2, 3, 4)
            ]
        return statuses.count(200)

    flag, variable = ("--set", "server.max_items=3"), {"PALIO_SERVER__MAX_ITEMS": "2"}
    assert most_rows() == 1
    assert most_rows(**variable) == 2
    assert most_rows(*flag, **variable) == 3
