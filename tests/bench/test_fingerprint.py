from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palio.bench.cgroups import cpu_limit, folders, memory_limit_bytes
from palio.bench.fingerprint import (
    SOURCE,
    as_ranges,
    cpu_facts,
    fingerprint,
    fingerprint_id,
    git_state,
    load_average,
    memory_bytes,
    package_versions,
    steal_ratio,
)

# Captured, shortened.
EPYC = """\
processor\t: 0
model name\t: AMD EPYC
physical id\t: 0
siblings\t: 4
core id\t\t: 0
cpu cores\t: 2
flags\t\t: fpu sse2 hypervisor avx2 avx512f avx_vnni

processor\t: 1
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu

processor\t: 2
physical id\t: 0
core id\t\t: 0

processor\t: 3
physical id\t: 0
core id\t\t: 1
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def test_a_cpu_is_known_by_model_cores_and_the_instructions_that_matter() -> None:
    assert cpu_facts(EPYC) == {
        "cpu_model": "AMD EPYC",
        "cpus": 4,
        "cores": 2,
        "flags": ["avx2", "avx_vnni", "avx512f", "hypervisor"],
    }
    assert cpu_facts(GRAVITON) == {
        "cpu_model": "0x41 0xd40",
        "cpus": 1,
        "cores": None,
        "flags": ["asimd", "asimddp", "i8mm", "bf16", "sve"],
    }
    assert cpu_facts("") == {"cpu_model": None, "cpus": None, "cores": None, "flags": []}


def test_the_small_files_are_read() -> None:
    assert memory_bytes("MemTotal:       24684092 kB\nMemFree: 1 kB\n") == 24_684_092 * 1024
    assert load_average("1.27 1.39 1.12 2/97 30752\n") == [1.27, 1.39, 1.12]
    assert steal_ratio("cpu  50 10 20 800 10 0 10 100 7 7\ncpu0 1\n") == 0.1


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "cpu 1 2", "MemTotal: many kB"])
def test_what_cannot_be_read_is_none(text: str) -> None:
    assert memory_bytes(text) is None
    assert steal_ratio(text) is None
    assert load_average("") is None


@pytest.mark.parametrize(
    ("numbers", "ranges"),
    [([], ""), ([5], "5"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8"), ([1, 0], "0-1")],
)
def test_cpus_are_written_as_linux_writes_them(numbers: list[int], ranges: str) -> None:
    assert as_ranges(numbers) == ranges


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V1 = "4:memory:/box\n2:cpu,cpuacct:/box/in\n0::/\n"
V2 = "0::/box/in\n"


def test_limits_of_either_version_are_the_least_on_the_way_up(tmp_path: Path) -> None:
    first = lay(
        tmp_path / "v1",
        {
            "cpu,cpuacct/box/in/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/box/cpu.cfs_quota_us": "150000\n",
            "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            "memory/box/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.limit_in_bytes": "1000\n",
        },
    )
    second = lay(
        tmp_path / "v2",
        {
            "box/in/cpu.max": "max 100000\n",
            "box/cpu.max": "150000 100000\n",
            "box/in/memory.max": "2000\n",
            "box/memory.max": "1000\n",
        },
    )
    for cgroup, root in ((V1, first), (V2, second)):
        assert cpu_limit(folders(cgroup, "cpu", root=root)) == 1.5
        assert memory_limit_bytes(folders(cgroup, "memory", root=root)) == 1000
    assert cpu_limit(folders("", "cpu", root=first)) is None


def machine(tmp_path: Path, **changes: str) -> dict[str, Any]:
    proc = lay(
        tmp_path / "proc",
        {
            "cpuinfo": EPYC,
            "meminfo": "MemTotal: 8 kB",
            "loadavg": "1 2 3 4/5 6",
            "stat": "cpu 1 1 1 1 1 1 1 1",
            "self/cgroup": V2,
            **changes,
        },
    )
    cpus = lay(
        tmp_path / "cpus",
        {"cpu0/cpufreq/scaling_governor": "powersave\n", "smt/active": "1\n"},
    )
    source = tmp_path / "no-checkout" / "file.py"
    return fingerprint(proc=proc, cpus=cpus, cgroups=tmp_path / "none", source=source)


def test_a_machines_id_changes_with_the_machine_and_not_with_the_hour(tmp_path: Path) -> None:
    calm = machine(tmp_path)
    busy = machine(tmp_path, loadavg="9 9 9 9/9 9", stat="cpu 1 1 1 1 1 1 1 99")
    assert calm["now"] != busy["now"]
    assert fingerprint_id(calm) == fingerprint_id(busy)
    assert fingerprint_id(machine(tmp_path, meminfo="MemTotal: 9 kB")) != fingerprint_id(calm)
    assert (calm["machine"]["governor"], calm["machine"]["smt"]) == ("powersave", True)
    assert calm["software"]["git"] is None


def test_this_machine_has_a_fingerprint_that_json_can_hold() -> None:
    facts = fingerprint()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["machine"]["cpus"] >= 1
    assert len(fingerprint_id(facts)) == 12
    assert "numpy" in facts["software"]["packages"]
    assert package_versions(["no-such-package-here"]) == {}


def test_a_checkout_is_that_of_files_it_knows() -> None:
    state = git_state(SOURCE)
    # None where the sources were unpacked rather than checked out.
    assert state is None or len(state["commit"]) == 40
    assert git_state(SOURCE.parent / "__pycache__" / "other.pyc") is None
