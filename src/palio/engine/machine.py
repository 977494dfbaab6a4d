"""Reads what this machine gives us: CPUs, their instructions, memory; containers' limits included.

Linux keeps all of it in files, under `/proc` and `/sys/fs/cgroup`; a test passes folders of its
own. Deciding what to do with it is `palio.core.cpus`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")

# The instructions that decide which precision is quick here.
ISA_OF_INTEREST: Final = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

# Version 1 writes "no limit" as the largest multiple of a page.
_NO_LIMIT_BYTES: Final = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is: `cpus` is what may really run at once, the other two are why.

    A quota of one and a half CPUs counts as one: the second thread would stand still half of the
    time, and everyone in its batch with it.
    """

    cpus: int
    affinity_cpus: int
    quota_cpus: float | None
    cpu_model: str
    isa: tuple[str, ...]
    memory_bytes: int | None


def read_machine(
    *, proc: Path = PROC, cgroups: Path = CGROUPS, affinity_cpus: int | None = None
) -> Machine:
    """What this process may use; files that are missing mean no limit."""
    affinity = len(os.sched_getaffinity(0)) if affinity_cpus is None else affinity_cpus
    quota = _least(_quotas(proc, cgroups))
    facts = _cpu_facts(proc)
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return Machine(
        cpus=affinity if quota is None else max(1, min(affinity, int(quota))),
        affinity_cpus=affinity,
        quota_cpus=quota,
        cpu_model=facts.get("model name", "unknown"),
        isa=tuple(flag for flag in ISA_OF_INTEREST if flag in flags),
        memory_bytes=_memory_bytes(proc, cgroups),
    )


def _cpu_facts(proc: Path) -> dict[str, str]:
    """The first CPU's lines of cpuinfo."""
    first, _, _ = _text(proc / "cpuinfo").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Every limit on CPU time above this process, in CPUs."""
    for folder in _folders(proc, cgroups, "cpu"):
        limit, _, period = _text(folder / "cpu.max").partition(" ")
        if not limit:
            limit = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        if limit.isdecimal() and period.isdecimal() and int(period):
            yield int(limit) / int(period)


def _memory_bytes(proc: Path, cgroups: Path) -> int | None:
    """The least of what is built in and of every limit above this process."""
    limits: list[float] = [
        int(line.split()[1]) * 1024
        for line in _text(proc / "meminfo").splitlines()
        if line.startswith("MemTotal:")
    ]
    for folder in _folders(proc, cgroups, "memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < _NO_LIMIT_BYTES:
            limits.append(int(limit))
    least = _least(iter(limits))
    return None if least is None else int(least)


def _folders(proc: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """The control groups this process is in, from its own up to the root.

    A container often sees its own group as the root while `/proc` names the path outside it;
    folders that are not there are passed over, and the root is always looked at.
    """
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots = [cgroups, cgroups / "unified"]
        elif controller in controllers.split(","):
            roots = [cgroups / controllers, cgroups / controller]
        else:
            continue
        inside = Path(path.lstrip("/"))
        for root in roots:
            for step in (inside, *inside.parents):
                if (root / step).is_dir():
                    yield root / step


def _least(values: Iterator[float]) -> float | None:
    return min(values, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
