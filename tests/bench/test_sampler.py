from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from palio.bench.resources import (
    GroupCpu,
    ProcessSample,
    Sample,
    cpu_ticks,
    group_cpu,
    process_stat,
    pss_bytes,
    read_samples,
    sample_from_json,
    stalled_us,
    switches,
    usage,
)
from palio.bench.sampler import Sampler, find_group, sampling
from tests.bench.test_fingerprint import V1, V2, lay

PATIENCE_S = 60

# Captured, shortened.
STAT = (
    "30753 (a) b (c)) R 30737 30737 27786 0 -1 4194304 101 7 2 1 40 10 5 3 20 0 6 0 533953 3133440 "
    "366 18446744073709551615 94265685626880 94265685646761 140724499181040 0 0 0 0"
)
STATUS = "Name:\tcat\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n"
ROLLUP = "55c4-7ffc ---p 0 00:00 0  [rollup]\nRss: 1732 kB\nPss: 345 kB\nPss_Dirty: 108 kB\n"
PSI = (
    "some avg10=2.11 avg60=5.08 avg300=10.92 total=226255598\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"
)


def test_a_process_is_read_whatever_it_is_called() -> None:
    stat = process_stat(STAT)
    assert stat is not None
    assert (stat.state, stat.faults, stat.cpu_ticks) == ("R", 103, 58)
    assert (stat.threads, stat.start_ticks, stat.rss_pages) == (6, 533_953, 366)
    assert switches(STATUS) == (12, 3)
    assert pss_bytes(ROLLUP) == 345 * 1024


def test_control_groups_of_either_version_tell_the_same() -> None:
    second = "usage_usec 2500\nuser_usec 2000\nnr_periods 9\nnr_throttled 2\nthrottled_usec 30\n"
    first = "nr_periods 9\nnr_throttled 2\nthrottled_time 30000\n"
    assert group_cpu(second) == GroupCpu(2_500_000, 30_000, 2)
    assert group_cpu(first, "2500000\n") == GroupCpu(2_500_000, 30_000, 2)
    # Version 2 without a limit has no periods.
    assert group_cpu("usage_usec 1\n") == GroupCpu(1000, None, None)
    assert stalled_us(PSI) == 226_255_598
    assert cpu_ticks("cpu  1 2 3 4 5 6 7 8 9 10\n") == (36, 8)


@pytest.mark.parametrize("text", ["", "x", "1 (x) R 1", "some", "cpu 1 2 3", "Pss"])
def test_what_cannot_be_read_is_not_told(text: str) -> None:
    found = (process_stat(text), pss_bytes(text), switches(text), stalled_us(text), cpu_ticks(text))
    assert found == (None,) * 5
    assert group_cpu(text) == GroupCpu(None, None, None)


def test_the_accounts_of_the_nearest_group_are_found(tmp_path: Path) -> None:
    first = lay(
        tmp_path / "v1",
        {
            "cpu,cpuacct/box/cpu.stat": "",
            "cpu,cpuacct/cpu.stat": "",
            "cpu,cpuacct/cpuacct.usage": "",
            "memory/box/memory.usage_in_bytes": "",
            "memory/box/memory.max_usage_in_bytes": "",
            "unified/cpu.pressure": "",
        },
    )
    found = find_group(V1, root=first, proc=tmp_path)
    assert found.cpu_stat == first / "cpu,cpuacct/box/cpu.stat"
    assert found.cpuacct_usage == first / "cpu,cpuacct/cpuacct.usage"
    assert found.memory == first / "memory/box/memory.usage_in_bytes"
    assert found.memory_peak == first / "memory/box/memory.max_usage_in_bytes"
    assert found.pressure == {"cpu": first / "unified/cpu.pressure"}
    second = lay(
        tmp_path / "v2",
        {"box/in/cpu.stat": "", "box/in/memory.current": "", "box/cpu.pressure": ""},
    )
    proc = lay(tmp_path / "proc", {"pressure/io": PSI})
    found = find_group(V2, root=second, proc=proc)
    assert found.cpu_stat == second / "box/in/cpu.stat"
    assert (found.cpuacct_usage, found.memory_peak) == (None, None)
    assert found.pressure == {"cpu": second / "box/cpu.pressure", "io": proc / "pressure/io"}


def sample(t_ms: int, *cpu_ms: int, **told: Any) -> Sample:
    """A moment with a process for each figure; each holds `pid` MB."""
    return Sample(
        t_ns=t_ms * 10**6,
        processes=tuple(
            ProcessSample(
                pid=pid,
                cpu_ns=each * 10**6,
                threads=2,
                rss_bytes=pid * 10**6,
                faults=0,
                pss_bytes=None if t_ms == 200 else pid * 10**6,
                fds=3,
            )
            for pid, each in enumerate(cpu_ms, 1)
        ),
        own_cpu_ns=t_ms * 1000,
        **told,
    )


def test_what_was_used_is_what_grew_between_the_first_and_the_last_sample_inside() -> None:
    samples = [
        sample(0, 0),
        sample(
            100, 50, total_ticks=100, steal_ticks=0, throttled_ns=0, pressure_us={"cpu": 0, "io": 0}
        ),
        sample(200, 100),
        # It starts another.
        sample(300, 150, 0),
        sample(
            1100,
            500,
            50,
            total_ticks=300,
            steal_ticks=20,
            throttled_ns=7_000_000,
            pressure_us={"cpu": 250_000},
        ),
        sample(1200, 999),
    ]
    used = usage(samples, begin_ns=50 * 10**6, end_ns=1150 * 10**6)
    assert used is not None
    assert (used.samples, used.seconds, used.cpu_ms) == (4, 1.0, 500)
    assert used.cpus == 0.5
    assert used.cpu_ms_per_request(100) == 5.0
    assert used.cpu_ms_per_request(0) is None
    # At 200 ms nobody asked.
    assert used.pss_mean_bytes == pytest.approx(7e6 / 3)
    assert (used.pss_peak_bytes, used.rss_peak_bytes) == (3_000_000, 3_000_000)
    assert (used.threads_peak, used.fds_peak) == (4, 6)
    assert (used.throttled_ms, used.steal_ratio) == (7.0, 0.1)
    assert used.stalled_ratio == {"cpu": 0.25}
    assert used.own_cpu_ratio == pytest.approx(0.001)
    assert (used.group_cpu_ms, used.switches) == (None, None)


def test_nothing_is_said_of_too_little() -> None:
    moments = [sample(0, 1), sample(100, 2), Sample(t_ns=200 * 10**6, processes=())]
    assert usage(moments, begin_ns=0, end_ns=50 * 10**6) is None
    assert usage(moments, begin_ns=100 * 10**6, end_ns=200 * 10**6) is None
    shrunk = usage([sample(0, 5, 5), sample(100, 6)], begin_ns=0, end_ns=10**9)
    assert shrunk is not None
    assert (shrunk.cpu_ms, shrunk.cpus, shrunk.cpu_ms_per_request(1)) == (None, None, None)


def test_a_sample_comes_back_as_it_was_and_a_torn_one_not_at_all(tmp_path: Path) -> None:
    moments = (sample(0, 1, pressure_us={"cpu": 1}), sample(100, 2, 3))
    assert sample_from_json(json.loads(json.dumps(asdict(moments[0])))) == moments[0]
    lines = [{"palio_samples": 1}, *map(asdict, moments), {"end": "stdin closed"}]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    path = tmp_path / "resources.jsonl"
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert read_samples(path) == moments[: len(read_samples(path))]
    assert read_samples(path) == moments
    assert read_samples(tmp_path / "none") == ()


# It burns CPU time in a child until it is killed or its input ends.
BUSY = """
import os, sys
held = bytearray(b"x" * 30_000_000)
if os.fork():
    sys.stdin.read()
    os._exit(0)
print("busy", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    pass
"""


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def busy() -> Any:
    process = subprocess.Popen(  # noqa: S603  (our own words, no shell)
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        yield process
        process.kill()


def sampler_command(*words: object) -> list[str]:
    return [sys.executable, "-m", "palio.bench.sampler", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_busy_process_and_its_child_are_seen_at_work(
    busy: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "resources.jsonl"
    words = ("--pids", busy.pid, "--out", out, "--every-s", 0.05, "--max-samples", 8)
    ended = subprocess.run(  # noqa: S603  (our own module, no shell)
        sampler_command(*words),
        stdin=busy.stdout,
        timeout=PATIENCE_S,
        env=environment(),
        check=True,
    )
    assert ended.returncode == 0
    assert lines_of(out)[-1] == {"end": "limit reached"}
    samples = read_samples(out)
    assert len(samples) == 8
    assert {len(each.processes) for each in samples} == {2}
    used = usage(samples, begin_ns=0, end_ns=2**63)
    assert used is not None
    assert used.seconds >= 7 * 0.05 * 0.99
    assert used.cpus is not None
    assert used.cpus > 0.05
    assert used.pss_peak_bytes is None or used.pss_peak_bytes > 30_000_000
    assert used.rss_peak_bytes is not None
    assert used.rss_peak_bytes > 30_000_000
    assert used.threads_peak == 2
    assert 0 < used.own_cpu_ratio < 0.5


def test_the_sampler_ends_with_its_input_and_with_the_processes(
    busy: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with sampling([busy.pid], first, cpus=os.sched_getaffinity(0)) as process:
        pass
    assert process.returncode == 0
    assert lines_of(first)[-1] == {"end": "stdin closed"}
    assert len(read_samples(first)) == 1
    with sampling([busy.pid], second, every_s=0.01) as process:
        busy.kill()
        assert process.wait(PATIENCE_S) == 0
    assert lines_of(second)[-1] == {"end": "processes gone"}


def test_a_number_that_somebody_else_has_now_is_not_sampled(tmp_path: Path) -> None:
    proc = lay(tmp_path / "proc", {"7/stat": STAT, "7/cgroup": V2})
    sampler = Sampler([7, 8], proc=proc, root=tmp_path / "none")
    seen = sampler.sample()
    assert seen is not None
    assert [(each.pid, each.fds, each.pss_bytes) for each in seen.processes] == [(7, None, None)]
    lay(proc, {"7/stat": STAT.replace("533953", "600000")})
    assert sampler.sample() is None
    lay(proc, {"7/stat": STAT.replace(" R ", " Z ")})
    assert sampler.sample() is None


def test_a_sampler_never_writes_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"precious")
    ended = subprocess.run(  # noqa: S603  (our own module, no shell)
        sampler_command("--pids", os.getpid(), "--out", tmp_path / "there"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
    )
    assert ended.returncode
    assert b"FileExistsError" in ended.stderr
    assert (tmp_path / "there").read_bytes() == b"precious"
