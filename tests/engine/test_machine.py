from __future__ import annotations

from pathlib import Path

import pytest

from palio.engine.machine import Machine, read_machine

CPUINFO = """processor\t: 0
model name\t: Fast CPU 9000
flags\t\t: fpu avx2 avx512f avx512_vnni amx_tile amx_int8

processor\t: 1
model name\t: Another
"""


class Box:
    """A machine made of files."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.put(self.proc / "cpuinfo", CPUINFO)
        self.put(self.proc / "meminfo", "MemTotal:       8000 kB\nMemFree: 1 kB\n")

    def put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, name: str, text: str) -> None:
        self.put(self.cgroups / name, text)

    def membership(self, text: str) -> None:
        self.put(self.proc / "self" / "cgroup", text)

    def read(self, affinity_cpus: int = 8) -> Machine:
        return read_machine(proc=self.proc, cgroups=self.cgroups, affinity_cpus=affinity_cpus)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_without_any_limit_the_affinity_counts(box: Box) -> None:
    machine = box.read(affinity_cpus=5)
    assert (machine.cpus, machine.quota_cpus) == (5, None)


def test_the_first_cpu_says_its_name_and_what_it_can_do(box: Box) -> None:
    machine = box.read()
    assert machine.cpu_model == "Fast CPU 9000"
    assert machine.isa == ("avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8")
    assert machine.memory_bytes == 8000 * 1024


@pytest.mark.parametrize(
    ("limit", "cpus", "quota"),
    [
        ("max 100000", 8, None),
        ("400000 100000", 4, 4.0),
        ("150000 100000", 1, 1.5),
        ("50000 100000", 1, 0.5),
        ("9900000 100000", 8, 99.0),
        ("nonsense", 8, None),
    ],
)
def test_a_quota_of_version_2_counts_whole_cpus_and_at_least_one(
    box: Box, limit: str, cpus: int, quota: float | None
) -> None:
    box.membership("0::/app\n")
    box.group("app/cpu.max", limit)
    machine = box.read()
    assert (machine.cpus, machine.quota_cpus) == (cpus, quota)


def test_the_tightest_group_on_the_way_up_decides(box: Box) -> None:
    box.membership("0::/pod/app\n")
    box.group("pod/app/cpu.max", "600000 100000")
    box.group("pod/cpu.max", "300000 100000")
    box.group("pod/memory.max", "4096000")
    box.group("pod/app/memory.max", "max")
    machine = box.read()
    assert machine.cpus == 3
    assert machine.memory_bytes == 4_096_000


def test_a_container_that_sees_its_group_as_the_root_is_limited_too(box: Box) -> None:
    box.membership("0::/not/visible/from/here\n")
    box.group("cpu.max", "200000 100000")
    assert box.read().cpus == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_version_1_groups_are_read_wherever_they_are_mounted(box: Box, folder: str) -> None:
    box.membership("5:cpu,cpuacct:/box\n4:memory:/box\n3:cpuset:/box\n")
    box.group(f"{folder}/box/cpu.cfs_quota_us", "250000")
    box.group(f"{folder}/box/cpu.cfs_period_us", "100000")
    box.group("memory/box/memory.limit_in_bytes", "1024000")
    machine = box.read()
    assert (machine.cpus, machine.quota_cpus, machine.memory_bytes) == (2, 2.5, 1_024_000)


def test_version_1_words_for_no_limit_are_none(box: Box) -> None:
    box.membership("5:cpu:/\n4:memory:/\n")
    box.group("cpu/cpu.cfs_quota_us", "-1")
    box.group("cpu/cpu.cfs_period_us", "100000")
    box.group("memory/memory.limit_in_bytes", "9223372036854771712")
    machine = box.read()
    assert (machine.cpus, machine.memory_bytes) == (8, 8000 * 1024)


def test_a_machine_that_tells_nothing_is_still_described(tmp_path: Path) -> None:
    machine = read_machine(proc=tmp_path / "none", cgroups=tmp_path / "none", affinity_cpus=2)
    assert machine == Machine(
        cpus=2,
        affinity_cpus=2,
        quota_cpus=None,
        cpu_model="unknown",
        isa=(),
        memory_bytes=None,
    )


def test_this_very_machine_can_be_read() -> None:
    machine = read_machine()
    assert 1 <= machine.cpus <= machine.affinity_cpus
