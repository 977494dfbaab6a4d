"""Where a process's control groups keep their accounts and limits: version 1, version 2, or both.

Folders are passed in, so that a test can lay out a machine of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")

# Version 1 writes "no limit" as the largest multiple of a page.
_NO_LIMIT_BYTES: Final = 1 << 60


def text(path: Path) -> str:
    """What a file says, without the space around it; empty if it is not there or not for us."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def folders(cgroup: str, controller: str, *, root: Path = CGROUPS) -> Iterator[Path]:
    """The folders of a controller, from the process's own group up to the root.

    `cgroup` is what `/proc/PID/cgroup` says. Version 1's come first, then version 2's. A container
    often sees its own group as the root while `/proc` names the path outside it: folders that are
    not there are passed over, and the root always comes last.
    """
    first: list[tuple[Path, str]] = []
    second: list[tuple[Path, str]] = []
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            second = [(root, path), (root / "unified", path)]
        elif controller in controllers.split(","):
            # A joint mount `cpu,cpuacct` often has a link `cpu` beside it; either will do.
            first = [(root / name, path) for name in dict.fromkeys((controllers, controller))]
    for place, path in (*first, *second):
        inside = Path(path.lstrip("/"))
        for step in (inside, *inside.parents):
            if (place / step).is_dir():
                yield place / step


def nearest(places: Iterator[Path], name: str) -> Path | None:
    """The first of these folders' files of that name."""
    return next((place / name for place in places if (place / name).exists()), None)


def cpu_limit(places: Iterator[Path]) -> float | None:
    """The least quota above a process, in CPUs; None without one."""
    limits = []
    for place in places:
        quota, _, period = text(place / "cpu.max").partition(" ")
        if not quota:
            quota = text(place / "cpu.cfs_quota_us")
            period = text(place / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit_bytes(places: Iterator[Path]) -> int | None:
    """The least limit above a process; None without one."""
    limits = []
    for place in places:
        limit = text(place / "memory.max") or text(place / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < _NO_LIMIT_BYTES:
            limits.append(int(limit))
    return min(limits, default=None)
