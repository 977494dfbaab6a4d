"""docs/reference/coverage.md does not lie: its tests exist and it leaves nothing out."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
HOUSE: Final = ROOT / "src" / "palio"
LEDGER: Final = ROOT / "docs" / "reference" / "coverage.md"
CATALOGUE: Final = ROOT.parent / "shared" / "design" / "requirements.md"
# Not packages, but places where work belongs all the same.
OUTBUILDINGS: Final = frozenset({"contenders", "docs", "examples", "monitoring", "tests"})

_ID: Final = re.compile(r"S[0-4]\.[1-9]\d*|R[1-9]\d*")
_NODE: Final = r"tests/[\w/]+\.py(?:::\w+)+"
_STATE: Final = re.compile(
    rf"(?P<tests>{_NODE}(?:, {_NODE})*)(?:; rest later \((?P<rest>\w+)\))?"
    r"|later \((?P<room>\w+)\)"
    r"|declined: (?P<reason>\S.{9,})"
)


class Entry(NamedTuple):
    """One line of the ledger."""

    id: str
    asks: str
    state: str


def entries() -> list[Entry]:
    """Every table row of the ledger but the headings, whether or not its id is a good one."""
    rows = []
    for line in LEDGER.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "id" or not cells[0].strip("-: "):
            continue
        assert len(cells) == 3, f"a row has three cells: {line}"
        rows.append(Entry(cells[0], cells[1], cells[2].replace("`", "")))
    return rows


def catalogue_ids(text: str) -> set[str]:
    """The ids the catalogue asks for: its table rows, and Part 4's numbered list."""
    part_4 = text.partition("# PART 4")[2].partition("# PART 5")[0]
    return {
        *re.findall(r"^\| (S\d\.\d+) \|", text, re.MULTILINE),
        *(f"R{number}" for number in re.findall(r"^(\d+)\. ", part_4, re.MULTILINE)),
    }


def promised(state: str) -> list[str]:
    """The tests a state names."""
    match = _STATE.fullmatch(state)
    return match["tests"].split(", ") if match and match["tests"] else []


def _names_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if name.startswith("test"):
                    yield name
            case ast.ClassDef(name=name, body=inside) if name.startswith("Test"):
                yield from (f"{name}::{test}" for test in _names_in(inside))
            # A hypothesis state machine: `TestQueue = QueueMachine.TestCase`.
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(attr="TestCase"))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Attribute(attr="TestCase"))
            ):
                yield name
                yield f"{name}::runTest"
            case _:
                pass


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names, as pytest writes them, of the tests a file holds."""
    return frozenset(_names_in(ast.parse(path.read_text(encoding="utf-8")).body))


def complaint(node_id: str) -> str | None:
    """What is wrong with the name of a test; None if it names one."""
    name, _, test = node_id.partition("::")
    if not (ROOT / name).is_file():
        return f"{name} does not exist"
    there = names_in(ROOT / name)
    if test in there:
        return None
    near = get_close_matches(test, there, n=1)
    return f"{name} holds no {test}" + (f"; did you mean {near[0]}?" if near else "")


def test_every_entry_has_an_id_of_its_own_and_says_what_it_asks() -> None:
    rows = entries()
    times = Counter(row.id for row in rows)
    assert not [name for name, count in times.items() if count > 1 or not _ID.fullmatch(name)]
    assert not [row.id for row in rows if len(row.asks) < 20]


def test_every_state_is_one_of_the_three_kinds() -> None:
    odd = [f"{row.id}: {row.state}" for row in entries() if not _STATE.fullmatch(row.state)]
    assert not odd, "\n".join(odd)


def test_what_is_left_for_later_names_a_room_of_the_house() -> None:
    rooms = OUTBUILDINGS | {init.parent.name for init in HOUSE.glob("*/__init__.py")}
    unknown = []
    for row in entries():
        match = _STATE.fullmatch(row.state)
        room = match and (match["room"] or match["rest"])
        if room and room not in rooms:
            unknown.append(f"{row.id}: {room}")
    assert not unknown


def test_every_test_the_ledger_names_exists() -> None:
    wrong = [
        f"{row.id}: {found}"
        for row in entries()
        for node_id in promised(row.state)
        if (found := complaint(node_id))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_ledger_lists_exactly_what_the_catalogue_asks() -> None:
    if not CATALOGUE.is_file():
        pytest.skip(f"{CATALOGUE} is not here: the catalogue is no part of the repository")
    asked = catalogue_ids(CATALOGUE.read_text(encoding="utf-8"))
    listed = {row.id for row in entries()}
    assert len(asked) > 100, "the catalogue's form has changed; mend catalogue_ids"
    assert {"missing": asked - listed, "unasked": listed - asked} == {
        "missing": set(),
        "unasked": set(),
    }


def test_tests_are_found_alone_in_classes_and_as_state_machines(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "def test_alone() -> None: ...\n"
        "async def test_awaited() -> None: ...\n"
        "def helper() -> None:\n    def test_inside() -> None: ...\n"
        "class TestGroup:\n    def test_member(self) -> None: ...\n"
        "class Machine:\n    def test_of_no_test_class(self) -> None: ...\n"
        "TestMachine = Machine.TestCase\n"
    )
    assert names_in(file) == {
        "test_alone",
        "test_awaited",
        "TestGroup::test_member",
        "TestMachine",
        "TestMachine::runTest",
    }


@pytest.mark.parametrize(
    "state",
    [
        "PENDING",
        "",
        "later",
        "later ()",
        "declined",
        "declined: no",
        "tests/test_a.py",
        "test_a.py::test_b",
        "tests/test_a.py::test_b tests/test_a.py::test_c",
        "tests/test_a.py::test_b; later (bench)",
    ],
)
def test_a_state_of_no_known_kind_is_refused(state: str) -> None:
    assert not _STATE.fullmatch(state)
