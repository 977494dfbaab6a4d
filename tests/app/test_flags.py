"""The command line: every flag does something, and what is wrong is said in one sentence."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App

from palio.bench.attempts import Fault
from palio.bench.load import ClosedLoad
from palio.bench.record import Trial, read_trial
from palio.cli import app
from tests.app.process import (
    PALIO,
    TOY_INFER,
    Served,
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


@dataclass(frozen=True)
class Bench:
    """`palio bench` against the toy of all tests, from a folder of its own."""

    folder: Path
    served: Served

    def said(self, *words: str, url: str = "", status: int | None = None) -> str:
        """What it prints. The status only where it is the point: a busy machine makes us late."""
        ended = run_palio(self.folder, "bench", url or self.served.url, *words)
        assert not ended.stderr
        assert status is None or ended.returncode == status
        return ended.stdout

    def kept(self, words: str, *more: str, out: str = "out") -> Trial:
        """What a short trial of twenty regular requests, or of what is told, left behind."""
        given = {*words.split(), *more}
        if not given & {"-c", "--concurrency", "--trace", "--scenario"}:
            words += " --rate 100" * ("--rate" not in given)
            words += " --duration 200ms" * ("--duration" not in given)
            words += " --arrivals constant" * ("--arrivals" not in given)
        words += " --warmup 0" * ("--warmup" not in given)
        words += " --workload toy" * ("--workload" not in given)
        said = self.said(*words.split(), *more, "--out", out)
        return read_trial(self.folder / said.rpartition("every attempt: ")[2].strip())


BenchCase = Callable[[Bench], None]
JSON_TOY = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": {data}}]}'


def the_url_is_asked(bench: Bench) -> None:
    assert bench.kept("").attempts.is_good.all()
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert "FAILED: " in bench.said("--workload", "toy", url=nobody, status=1)


def the_workload_is_asked(bench: Bench) -> None:
    toy, tensor = bench.kept(""), bench.kept("--workload tensor:4")
    assert (toy.manifest.spec["questions"], tensor.manifest.spec["questions"]) == (
        "oip toy",
        "oip tensor:4",
    )
    assert toy.manifest.workload_sha256 != tensor.manifest.workload_sha256


def it_asks_that_way(bench: Bench) -> None:
    form = bench.kept("--way form --template a={n}")
    assert form.manifest.spec["questions"] == "form toy"
    assert bench.kept("--way oip").manifest.spec["questions"] == "oip toy"


def the_model_is_asked(bench: Bench) -> None:
    assert bench.kept("--model toy").attempts.is_good.all()
    ended = run_palio(
        bench.folder, "bench", bench.served.url, "--workload", "toy", "--model", "other"
    )
    assert ended.returncode == 2
    assert "does not describe the model 'other'" in ended.stderr


def the_path_is_asked(bench: Bench) -> None:
    there = bench.kept(f"--path {TOY_INFER}", "--template", JSON_TOY)
    assert set(there.attempts.status) == {200}
    assert set(bench.kept("", "--template", JSON_TOY).attempts.status) != {200}


def the_template_is_sent(bench: Bench) -> None:
    small, large = (
        bench.kept("", "--template", template).attempts.bytes_out.max()
        for template in ("[{n}]", '["%s", {n}]' % ("x" * 1000))
    )
    assert large > small + 1000


def the_rate_is_offered(bench: Bench) -> None:
    assert len(bench.kept("--rate 50").attempts) == 10
    assert len(bench.kept("--rate 200").attempts) == 40


def they_arrive_like_that(bench: Bench) -> None:
    def gaps(words: str) -> set[int]:
        return set(np.diff(bench.kept(words).attempts.intended).tolist())

    assert gaps("--arrivals constant") == {10_000_000}
    assert len(gaps("--arrivals poisson")) > 1


def the_shape_is_the_bursts(bench: Bench) -> None:
    intended = bench.kept("--rate 400 --arrivals burst --shape 5").attempts.intended
    assert set(np.unique(intended, return_counts=True)[1]) == {5}


def the_trace_is_replayed(bench: Bench) -> None:
    (bench.folder / "trace").write_text('{"at_ms": 0}\n{"at_ms": 20}\n{"at_ms": 90}\n')
    attempts = bench.kept("--trace trace").attempts
    assert attempts.intended.tolist() == [0, 20_000_000, 90_000_000]
    assert len(bench.kept("--trace trace --duration 50ms").attempts) == 2


def so_many_callers_ask(bench: Bench) -> None:
    for name in ("-c", "--concurrency"):
        load = bench.kept(f"{name} 3 -n 9").manifest.load
        assert isinstance(load, ClosedLoad)
        assert load.concurrency == 3


def it_stops_after_so_many(bench: Bench) -> None:
    for name in ("-n", "--requests"):
        assert len(bench.kept(f"-c 2 {name} 7").attempts) == 7


def it_takes_so_long(bench: Bench) -> None:
    assert len(bench.kept("--duration 0.1").attempts) == 10
    assert len(bench.kept("--duration 300ms").attempts) == 30


def the_warmup_comes_before(bench: Bench) -> None:
    assert len(bench.kept("--warmup 100ms").attempts) == 30


def an_answer_may_take_so_long(bench: Bench) -> None:
    assert set(bench.kept("--timeout 0.001ms").attempts.fault) == {Fault.TIMEOUT}


def requests_have_so_many_rows(bench: Bench) -> None:
    assert set(bench.kept("--rows 3").attempts.rows) == {3}


def the_seed_decides(bench: Bench) -> None:
    first, again, other = (
        bench.kept(f"--arrivals poisson --seed {seed}", out=f"out{at}").schedule
        for at, seed in enumerate((1, 1, 2))
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def an_objective_is_judged(bench: Bench) -> None:
    words = ["--workload", "toy", "-c", "1", "-n", "20", "--slo"]
    assert "\nSLO p50<1e-06ms,errors<0.1%: " in bench.said(*words, "p50<0.000001ms", status=1)
    assert "SLO" not in bench.said(*words[:-1], status=0)


def attempts_are_kept(bench: Bench) -> None:
    bench.said(*["--workload", "toy", "-c", "1", "-n", "5"])
    assert not list(bench.folder.iterdir())
    assert len(bench.kept("-c 1 -n 5", out="there").attempts) == 5
    assert len(list((bench.folder / "there").iterdir())) == 1


def that_process_is_watched(bench: Bench) -> None:
    trial = bench.kept(f"--pid {bench.served.process.pid}")
    assert trial.samples
    assert bench.served.process.pid in {each.pid for each in trial.samples[0].processes}
    assert not bench.kept("", out="unwatched").samples


def a_capacity_is_looked_for(bench: Bench) -> None:
    words = "--workload toy --find-capacity --duration 20ms --warmup 0 --slo p50<10s"
    said = bench.said(*words.split())
    assert "closed loop" in said.splitlines()[0]
    assert re.match("capacity within p50<10000ms|no capacity", said.splitlines()[-1])


def rates_rise(bench: Bench) -> None:
    words = "--workload toy --ramp --rate 800 --duration 30ms --warmup 0"
    head, *rows = bench.said(*words.split()).splitlines()
    assert head.startswith("offered/s")
    assert [row.split()[0] for row in rows[:8]] == [f"{at}00.0" for at in range(1, 9)]


def a_scenario_is_played(bench: Bench) -> None:
    load = bench.kept("--scenario offline --duration 100ms").manifest.load
    assert isinstance(load, ClosedLoad)
    assert load.concurrency == 64
    words = "--workload toy --scenario single-stream --duration 50ms --warmup 0"
    assert "not an MLPerf result" in bench.said(*words.split())


def the_client_is_measured(bench: Bench) -> None:
    with subprocess.Popen(  # noqa: S603  (our own words, no shell)
        [*PALIO, "bench", "--self"],
        stdout=subprocess.PIPE,
        env=environment(PALIO_CACHE=str(bench.folder)),
        text=True,
    ) as process:
        assert process.stdout is not None
        # The first of many rates is enough to see that it does.
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert first.split()[:3] == ["500/s", "lag", "p50"]
    assert process.returncode == 130


BENCH_CASES: dict[Flag, BenchCase] = {
    ("bench", "URL"): the_url_is_asked,
    ("bench", "--workload"): the_workload_is_asked,
    ("bench", "--way"): it_asks_that_way,
    ("bench", "--model"): the_model_is_asked,
    ("bench", "--path"): the_path_is_asked,
    ("bench", "--template"): the_template_is_sent,
    ("bench", "--rate"): the_rate_is_offered,
    ("bench", "--arrivals"): they_arrive_like_that,
    ("bench", "--shape"): the_shape_is_the_bursts,
    ("bench", "--trace"): the_trace_is_replayed,
    ("bench", "--concurrency"): so_many_callers_ask,
    ("bench", "--requests"): it_stops_after_so_many,
    ("bench", "--duration"): it_takes_so_long,
    ("bench", "--warmup"): the_warmup_comes_before,
    ("bench", "--timeout"): an_answer_may_take_so_long,
    ("bench", "--rows"): requests_have_so_many_rows,
    ("bench", "--seed"): the_seed_decides,
    ("bench", "--slo"): an_objective_is_judged,
    ("bench", "--out"): attempts_are_kept,
    ("bench", "--pid"): that_process_is_watched,
    ("bench", "--find-capacity"): a_capacity_is_looked_for,
    ("bench", "--ramp"): rates_rise,
    ("bench", "--scenario"): a_scenario_is_played,
    ("bench", "--self"): the_client_is_measured,
}

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
    assert set(flags_of(app)) == {*CASES, *BENCH_CASES}
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
@pytest.mark.parametrize("case", BENCH_CASES.values(), ids=[flag for _, flag in BENCH_CASES])
def test_a_flag_of_bench_changes_what_happens(case: BenchCase, tmp_path: Path, toy: Served) -> None:
    case(Bench(tmp_path, toy))


@pytest.mark.wire
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("serve zoo:minilm-l7", "the zoo has no 'minilm-l7'; did you mean zoo:minilm-l6?"),
        ("serve zoo:toy --set server.htp_port=1", "did you mean server.http_port?"),
        ("serve zoo:toy --http-port 0 -s models.toy.options.base=3", "did you mean base_ms?"),
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
