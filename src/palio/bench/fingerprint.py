"""What machine and what software a trial ran on: figures from two machines are not compared.

Three parts. `machine` is what stays until somebody changes the hardware, the kernel or the limits,
and its hash is the machine's short id; `software` is versions and the commit; `now` is what else
was going on. What cannot be read is null.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from palio.bench.canonical import sha256_of
from palio.bench.cgroups import CGROUPS, PROC, cpu_limit, folders, memory_limit_bytes, text
from palio.bench.resources import cpu_ticks

SOURCE: Final = Path(__file__).parent / "__init__.py"
CPUS: Final = Path("/sys/devices/system/cpu")

# The instructions that decide how quick a model is here.
FLAGS_OF_INTEREST: Final = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
    "hypervisor",
)
PACKAGES: Final = (
    *("palio", "numpy", "scipy", "uvloop", "httptools", "orjson"),
    *("onnx", "onnxruntime", "tokenizers"),
)
_GIT_PATIENCE_S: Final = 5


def fingerprint(
    *,
    proc: Path = PROC,
    cpus: Path = CPUS,
    cgroups: Path = CGROUPS,
    source: Path = SOURCE,
) -> dict[str, Any]:
    """This machine and this software, now. `source` is a file whose checkout is of interest."""
    cgroup = text(proc / "self" / "cgroup")
    return {
        "machine": {
            **cpu_facts(text(proc / "cpuinfo")),
            "affinity": as_ranges(os.sched_getaffinity(0)),
            "governor": text(cpus / "cpu0" / "cpufreq" / "scaling_governor") or None,
            "smt": {"1": True, "0": False}.get(text(cpus / "smt" / "active")),
            "memory_bytes": memory_bytes(text(proc / "meminfo")),
            "cgroup_cpus": cpu_limit(folders(cgroup, "cpu", root=cgroups)),
            "cgroup_memory_bytes": memory_limit_bytes(folders(cgroup, "memory", root=cgroups)),
            "architecture": platform.machine(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
        },
        "software": {
            "python": platform.python_version(),
            "implementation": sys.implementation.name,
            "packages": package_versions(PACKAGES),
            "git": git_state(source),
        },
        "now": {
            "load_average": load_average(text(proc / "loadavg")),
            "steal_ratio": steal_ratio(text(proc / "stat")),
        },
    }


def fingerprint_id(facts: Mapping[str, Any]) -> str:
    """Twelve digits that stay the same while the machine does."""
    return sha256_of(facts["machine"])[:12]


def cpu_facts(cpuinfo: str) -> dict[str, Any]:
    """Model, CPUs, cores and instructions, from `/proc/cpuinfo`."""
    blocks = [_pairs(block) for block in cpuinfo.split("\n\n") if "processor" in block]
    first = blocks[0] if blocks else {}
    cores = {
        (block["physical id"], block["core id"])
        for block in blocks
        if {"physical id", "core id"} <= block.keys()
    }
    has = set(first.get("flags", first.get("Features", "")).split())
    arm = [first[name] for name in ("CPU implementer", "CPU part") if name in first]
    return {
        "cpu_model": first.get("model name") or " ".join(arm) or None,
        "cpus": len(blocks) or None,
        "cores": len(cores) or None,
        "flags": [flag for flag in FLAGS_OF_INTEREST if flag in has],
    }


def memory_bytes(meminfo: str) -> int | None:
    """All the memory there is, from `/proc/meminfo`."""
    kilobytes = _pairs(meminfo).get("MemTotal", "").removesuffix("kB").strip()
    return int(kilobytes) * 1024 if kilobytes.isdecimal() else None


def load_average(loadavg: str) -> list[float] | None:
    """Over 1, 5 and 15 minutes, from `/proc/loadavg`."""
    words = loadavg.split()[:3]
    return [float(word) for word in words] if len(words) == 3 else None


def steal_ratio(stat: str) -> float | None:
    """Which share of all CPU time since the start the hypervisor kept, from `/proc/stat`."""
    ticks = cpu_ticks(stat)
    return round(ticks.steal / ticks.total, 6) if ticks and ticks.total else None


def as_ranges(numbers: Iterable[int]) -> str:
    """CPU numbers as Linux writes them: `0-2,5`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in runs)


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(file: Path) -> dict[str, Any] | None:
    """The commit of the checkout that a file belongs to, and whether anything differs from it.

    None for a file that git does not know, as one that was installed within somebody's checkout.
    """
    folder = file.parent
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "is_dirty": None if changed is None else bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    command = [program, "--no-optional-locks", "-C", str(folder), *words]
    try:
        ended = subprocess.run(  # noqa: S603  (fixed words and a folder of ours, no shell)
            command, capture_output=True, text=True, timeout=_GIT_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


def _pairs(lines: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
