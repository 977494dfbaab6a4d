"""What a server used: reads Linux's accounts, and says what the samples of a trial amount to.

Everything here is text in, values out. Who opens the files, ten times a second, is
`palio.bench.sampler`. It starts as a process of its own beside a measurement, so this imports
nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

FORMAT: Final = 1


class ProcessStat(NamedTuple):
    """`/proc/PID/stat`, as far as it matters; CPU time with that of children waited for."""

    state: str
    faults: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    rss_pages: int


def process_stat(stat: str) -> ProcessStat | None:
    """The name stands in brackets and may hold brackets and spaces; None if it is no such text."""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 22:
        return None
    return ProcessStat(
        state=fields[0],
        faults=int(fields[7]) + int(fields[9]),
        cpu_ticks=sum(int(field) for field in fields[11:15]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        rss_pages=int(fields[21]),
    )


def pss_bytes(smaps_rollup: str) -> int | None:
    """Memory with what is shared divided among its users, from `/proc/PID/smaps_rollup`."""
    for line in smaps_rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def switches(status: str) -> tuple[int, int] | None:
    """Context switches that a thread asked for and those it was made to do, from its `status`."""
    asked, forced = (
        status.partition(f"\n{name}_ctxt_switches:")[2].partition("\n")[0].strip()
        for name in ("voluntary", "nonvoluntary")
    )
    return (int(asked), int(forced)) if asked.isdecimal() and forced.isdecimal() else None


class GroupCpu(NamedTuple):
    """A control group's CPU account, whichever version keeps it; None is not told."""

    usage_ns: int | None
    throttled_ns: int | None
    throttled_periods: int | None


def group_cpu(cpu_stat: str, cpuacct_usage: str = "") -> GroupCpu:
    """From `cpu.stat`, of version 1 (ns) or 2 (µs), and version 1's `cpuacct.usage`."""
    told = _flat(cpu_stat)
    usage_us, throttled_us = told.get("usage_usec"), told.get("throttled_usec")
    if usage_us is not None:
        usage: int | None = usage_us * 1000
    else:
        usage = int(cpuacct_usage) if cpuacct_usage.strip().isdecimal() else None
    return GroupCpu(
        usage,
        told.get("throttled_time") if throttled_us is None else throttled_us * 1000,
        told.get("nr_throttled"),
    )


def stalled_us(pressure: str) -> int | None:
    """How long some task has waited in all, from a PSI file."""
    for line in pressure.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "some" and "total=" in rest:
            return int(rest.rpartition("total=")[2])
    return None


class CpuTicks(NamedTuple):
    """All CPUs together since the machine started, and what of it the hypervisor kept."""

    total: int
    steal: int


def cpu_ticks(stat: str) -> CpuTicks | None:
    """The first line of `/proc/stat`; None where it does not tell about steal."""
    words = stat.partition("\n")[0].split()
    if words[:1] != ["cpu"] or len(words) < 9:
        return None
    # user nice system idle iowait irq softirq steal; guest time is counted in user already.
    ticks = [int(word) for word in words[1:9]]
    return CpuTicks(sum(ticks), ticks[7])


def _flat(lines: str) -> dict[str, int]:
    pairs = (line.split() for line in lines.splitlines())
    return {
        pair[0]: int(pair[1])
        for pair in pairs
        if len(pair) == 2 and pair[1].lstrip("-").isdecimal()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One process at one moment; counters count from its start, None is not told."""

    pid: int
    cpu_ns: int
    threads: int
    rss_bytes: int
    faults: int
    pss_bytes: int | None = None
    fds: int | None = None
    switches: int | None = None
    forced_switches: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One moment. `t_ns` is `CLOCK_MONOTONIC`; counters only grow, None is not told.

    Group figures are those of the first process's control group, which may hold others as well.
    `pressure_us` is by "cpu", "memory" and "io". `own_cpu_ns` is what the sampler has used.
    """

    t_ns: int
    processes: tuple[ProcessSample, ...]
    total_ticks: int | None = None
    steal_ticks: int | None = None
    group_cpu_ns: int | None = None
    throttled_ns: int | None = None
    throttled_periods: int | None = None
    group_memory_bytes: int | None = None
    group_memory_peak_bytes: int | None = None
    pressure_us: Mapping[str, int] | None = None
    own_cpu_ns: int = 0

    def total(self, what: str) -> int | None:
        """A figure of all processes together; None if one of them does not tell it."""
        values = [getattr(process, what) for process in self.processes]
        return None if None in values else sum(values)


def sample_from_json(content: Mapping[str, Any]) -> Sample:
    """The sample that a line of the file holds."""
    terms = dict(content)
    processes = tuple(ProcessSample(**process) for process in terms.pop("processes"))
    return Sample(processes=processes, **terms)


def read_samples(path: Path) -> tuple[Sample, ...]:
    """All samples in a file of the sampler; no file is none, and a torn last line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return ()
    # What follows the last line break is a line that was never ended.
    found = (json.loads(line) for line in lines[:-1])
    return tuple(sample_from_json(content) for content in found if "t_ns" in content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a stretch of time cost; None is what the machine does not tell.

    `cpu_ms` is of the processes and those they started and waited for; `group_cpu_ms` of the whole
    control group. `stalled_ratio` is the share of the time in which some task waited, by PSI.
    `own_cpu_ratio` is the sampler's cost as a share of one CPU.
    """

    seconds: float
    samples: int
    cpu_ms: float | None
    group_cpu_ms: float | None
    pss_mean_bytes: float | None
    pss_peak_bytes: int | None
    rss_peak_bytes: int | None
    threads_peak: int | None
    fds_peak: int | None
    switches: int | None
    forced_switches: int | None
    throttled_ms: float | None
    steal_ratio: float | None
    stalled_ratio: Mapping[str, float]
    own_cpu_ratio: float

    @property
    def cpus(self) -> float | None:
        """How many CPUs were busy with it on average."""
        return None if self.cpu_ms is None else self.cpu_ms / 1e3 / self.seconds

    def cpu_ms_per_request(self, requests_per_s: float) -> float | None:
        """CPU time for one request at the rate that was answered meanwhile."""
        if self.cpu_ms is None or requests_per_s <= 0:
            return None
        return self.cpu_ms / self.seconds / requests_per_s


def usage(samples: Iterable[Sample], *, begin_ns: int, end_ns: int) -> Usage | None:
    """What was used from one moment to another, both on `CLOCK_MONOTONIC`.

    Counters are compared between the first and the last sample inside, so `seconds` is a little
    less than what was asked for. None with fewer than two samples that see a process.
    """
    inside = [each for each in samples if begin_ns <= each.t_ns <= end_ns and each.processes]
    if len(inside) < 2:
        return None
    first, last = inside[0], inside[-1]
    took_ns = last.t_ns - first.t_ns
    pss = _levels(inside, "pss_bytes")
    steal = _grown(first.steal_ticks, last.steal_ticks)
    ticks = _grown(first.total_ticks, last.total_ticks)
    before, after = first.pressure_us or {}, last.pressure_us or {}
    return Usage(
        seconds=took_ns / 1e9,
        samples=len(inside),
        cpu_ms=_ms(_grown(first.total("cpu_ns"), last.total("cpu_ns"))),
        group_cpu_ms=_ms(_grown(first.group_cpu_ns, last.group_cpu_ns)),
        pss_mean_bytes=sum(pss) / len(pss) if pss else None,
        pss_peak_bytes=max(pss, default=None),
        rss_peak_bytes=max(_levels(inside, "rss_bytes"), default=None),
        threads_peak=max(_levels(inside, "threads"), default=None),
        fds_peak=max(_levels(inside, "fds"), default=None),
        switches=_grown(first.total("switches"), last.total("switches")),
        forced_switches=_grown(first.total("forced_switches"), last.total("forced_switches")),
        throttled_ms=_ms(_grown(first.throttled_ns, last.throttled_ns)),
        steal_ratio=steal / ticks if steal is not None and ticks else None,
        stalled_ratio={
            kind: (after[kind] - before[kind]) * 1e3 / took_ns for kind in before if kind in after
        },
        own_cpu_ratio=(last.own_cpu_ns - first.own_cpu_ns) / took_ns,
    )


def _levels(samples: Sequence[Sample], what: str) -> list[int]:
    """A figure of each moment at which every process told it."""
    return [level for sample in samples if (level := sample.total(what)) is not None]


def _grown(before: int | None, after: int | None) -> int | None:
    """How much a counter grew; None if it is not told or a process took its share with it."""
    if before is None or after is None or after < before:
        return None
    return after - before


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e6
