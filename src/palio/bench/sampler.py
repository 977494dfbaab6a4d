"""Looks at a server ten times a second, from a process of its own, until told to stop.

    python -m palio.bench.sampler --pids 12,13 --out resources.jsonl

The processes named and all that they start are watched. It ends when its standard input is closed,
when all the processes named are gone, or after `--max-samples`; the last line says which. Each line
is written at once, so a kill costs at most the one being written.

PSS makes the kernel walk the page tables of the process; where that takes long it is asked for
less often, to stay below `_PSS_SHARE` of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from palio.bench import cgroups
from palio.bench.cgroups import CGROUPS, PROC, text
from palio.bench.resources import (
    FORMAT,
    ProcessSample,
    ProcessStat,
    Sample,
    cpu_ticks,
    group_cpu,
    process_stat,
    pss_bytes,
    stalled_us,
    switches,
)

EVERY_S: Final = 0.1
# Ten hours at ten a second.
MAX_SAMPLES: Final = 360_000
_MAX_PROCESSES: Final = 256
_MAX_THREADS: Final = 128
_PSS_SHARE: Final = 0.02
_STOP_PATIENCE_S: Final = 10
_PRESSURES: Final = ("cpu", "memory", "io")

End = Literal["stdin closed", "processes gone", "limit reached"]


@dataclass(frozen=True, slots=True)
class Group:
    """Where a control group keeps its accounts; None where there is no such file."""

    cpu_stat: Path | None
    cpuacct_usage: Path | None
    memory: Path | None
    memory_peak: Path | None
    pressure: dict[str, Path]


def find_group(cgroup: str, *, root: Path = CGROUPS, proc: Path = PROC) -> Group:
    """Where to look, given `/proc/PID/cgroup`; pressure may be that of the whole machine."""

    def find(controller: str, *names: str) -> Path | None:
        for name in names:
            if found := cgroups.nearest(cgroups.folders(cgroup, controller, root=root), name):
                return found
        return None

    pressure = {}
    for kind in _PRESSURES:
        path = find("", f"{kind}.pressure") or proc / "pressure" / kind
        if path.exists():
            pressure[kind] = path
    return Group(
        cpu_stat=find("cpu", "cpu.stat"),
        cpuacct_usage=find("cpuacct", "cpuacct.usage"),
        memory=find("memory", "memory.current", "memory.usage_in_bytes"),
        memory_peak=find("memory", "memory.peak", "memory.max_usage_in_bytes"),
        pressure=pressure,
    )


class Sampler:
    """Watches some processes and all that they start."""

    def __init__(self, pids: Sequence[int], *, proc: Path = PROC, root: Path = CGROUPS) -> None:
        self._proc = proc
        self._tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        # A number that comes round again belongs to somebody else.
        self._roots = {
            pid: stat.start_ticks for pid in pids if (stat := self._stat(pid)) is not None
        }
        first = next(iter(self._roots), 0)
        self._group = find_group(text(proc / str(first) / "cgroup"), root=root, proc=proc)
        self._pss_not_before_ns = 0

    def sample(self) -> Sample | None:
        """What there is to see now; None once all the processes named are gone."""
        found = dict(self._living())
        if not found:
            return None
        now_ns = time.monotonic_ns()
        has_pss = now_ns >= self._pss_not_before_ns
        processes = tuple(self._process(pid, stat, has_pss) for pid, stat in found.items())
        if has_pss:
            spent_ns = time.monotonic_ns() - now_ns
            self._pss_not_before_ns = now_ns + int(spent_ns / _PSS_SHARE)
        group = self._group
        cpu = group_cpu(_told(group.cpu_stat), _told(group.cpuacct_usage))
        ticks = cpu_ticks(text(self._proc / "stat"))
        pressure = {kind: stalled_us(text(path)) for kind, path in group.pressure.items()}
        return Sample(
            t_ns=now_ns,
            processes=processes,
            total_ticks=ticks.total if ticks else None,
            steal_ticks=ticks.steal if ticks else None,
            group_cpu_ns=cpu.usage_ns,
            throttled_ns=cpu.throttled_ns,
            throttled_periods=cpu.throttled_periods,
            group_memory_bytes=_number(_told(group.memory)),
            group_memory_peak_bytes=_number(_told(group.memory_peak)),
            pressure_us={kind: waited for kind, waited in pressure.items() if waited is not None},
            own_cpu_ns=time.process_time_ns(),
        )

    def _living(self) -> Iterator[tuple[int, ProcessStat]]:
        """The processes named that are still there, and below each all that it started."""
        seen: set[int] = set()
        waiting = []
        for pid, start_ticks in self._roots.items():
            stat = self._stat(pid)
            if stat is not None and stat.start_ticks == start_ticks and stat.state not in "ZX":
                waiting.append((pid, stat))
        while waiting and len(seen) < _MAX_PROCESSES:
            pid, stat = waiting.pop()
            if pid in seen:
                continue
            seen.add(pid)
            yield pid, stat
            waiting += [
                (child, below)
                for child in self._children(pid)
                if (below := self._stat(child)) is not None
            ]

    def _children(self, pid: int) -> list[int]:
        tasks = self._tasks(pid)
        return [int(word) for task in tasks for word in text(task / "children").split()]

    def _tasks(self, pid: int) -> list[Path]:
        try:
            return list((self._proc / str(pid) / "task").iterdir())
        except OSError:
            return []

    def _stat(self, pid: int) -> ProcessStat | None:
        return process_stat(text(self._proc / str(pid) / "stat"))

    def _process(self, pid: int, stat: ProcessStat, has_pss: bool) -> ProcessSample:
        folder = self._proc / str(pid)
        tasks = self._tasks(pid) if stat.threads <= _MAX_THREADS else []
        counted = [each for task in tasks if (each := switches(text(task / "status")))]
        if stat.state in "ZX":
            # Over, and not waited for yet: it holds nothing, and says so nowhere.
            pss: int | None = 0
            fds: int | None = 0
        else:
            pss = pss_bytes(text(folder / "smaps_rollup")) if has_pss else None
            fds = _open_files(folder / "fd")
        return ProcessSample(
            pid=pid,
            cpu_ns=stat.cpu_ticks * self._tick_ns,
            threads=stat.threads,
            rss_bytes=stat.rss_pages * self._page_bytes,
            faults=stat.faults,
            pss_bytes=pss,
            fds=fds,
            switches=sum(asked for asked, _ in counted) if counted else None,
            forced_switches=sum(forced for _, forced in counted) if counted else None,
        )


def run(sampler: Sampler, descriptor: int, *, every_s: float, max_samples: int) -> End:
    """Write a line for each sample until there is a reason to stop; the pace does not drift."""
    began = time.monotonic()
    for count in range(max_samples):
        sample = sampler.sample()
        if sample is None:
            return "processes gone"
        _write(descriptor, asdict(sample))
        # A moment that was missed is not made up for.
        due = max(began + (count + 1) * every_s, time.monotonic())
        began = due - (count + 1) * every_s
        if _is_told_to_stop(due):
            return "stdin closed"
    return "limit reached"


def _is_told_to_stop(until: float) -> bool:
    """Wait, and see whether standard input is closed meanwhile; what it says is ignored."""
    while True:
        readable, _, _ = select.select([0], [], [], max(0.0, until - time.monotonic()))
        if not readable:
            return False
        if not os.read(0, 4096):
            return True


def _write(descriptor: int, content: object) -> None:
    left = json.dumps(content, separators=(",", ":")).encode() + b"\n"
    while left:
        left = left[os.write(descriptor, left) :]


def _open_files(folder: Path) -> int | None:
    """How many descriptors are open: Linux 6.2 and later say so without listing them."""
    try:
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208  (the count alone)
    except OSError:
        return None


def _told(path: Path | None) -> str:
    return "" if path is None else text(path)


def _number(told: str) -> int | None:
    return int(told) if told.isdecimal() else None


@contextmanager
def sampling(
    pids: Sequence[int], out: Path, *, every_s: float = EVERY_S, cpus: Collection[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Have some processes watched, into a new file, for as long as the block lasts.

    On `cpus` if any are named, otherwise on those that this process may use: name some where this
    process keeps to a CPU of its own.
    """
    words = ["--pids", ",".join(map(str, pids)), "--out", str(out), "--every-s", str(every_s)]
    process = subprocess.Popen(  # noqa: S603  (our own module, no shell)
        [sys.executable, "-m", "palio.bench.sampler", *words],
        stdin=subprocess.PIPE,
        # Ctrl-C is for us: the sampler ends when we close its input, or are gone.
        start_new_session=True,
    )
    try:
        if cpus:
            os.sched_setaffinity(process.pid, cpus)
        yield process
    finally:
        assert process.stdin is not None  # noqa: S101  (it was asked for)
        process.stdin.close()
        try:
            process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m palio.bench.sampler", description=__doc__)
    parser.add_argument("--pids", required=True, help="processes to watch, as in 12,13")
    parser.add_argument("--out", required=True, help="a new file for JSON lines")
    parser.add_argument("--every-s", type=float, default=EVERY_S)
    parser.add_argument("--max-samples", type=int, default=MAX_SAMPLES)
    told = parser.parse_args(arguments)
    pids = [int(pid) for pid in told.pids.split(",")]
    descriptor = os.open(told.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    try:
        _write(descriptor, {"palio_samples": FORMAT, "every_s": told.every_s, "pids": pids})
        end = run(Sampler(pids), descriptor, every_s=told.every_s, max_samples=told.max_samples)
        _write(descriptor, {"end": end})
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
