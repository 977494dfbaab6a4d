"""What the pages say can be done, can be done."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from palio.cli import app
from palio.core.errors import NotFound, SettingsError
from palio.server.routes import RouteTable
from palio.settings import load_settings
from tests.app.process import serving
from tests.toolchain.conftest import minilm

__all__ = ["minilm"]

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE: Final = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK: Final = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_SHELLS: Final = frozenset({"", "sh", "bash", "shell", "console"})
# Where a reader puts something of their own in: `palio serve NAME`, `a | b`, `palio …`.
_PLACEHOLDER: Final = re.compile(r"…|\.\.\.|[<>\[\]|*]|\b[A-Z]{3,}\b")


class Command(NamedTuple):
    """One command line on one page."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def shell_lines(text: str) -> Iterator[str]:
    """Every line of every fenced block of shell, continued lines joined, prompts dropped."""
    for language, block in _FENCE.findall(text):
        if language in _SHELLS:
            for line in block.replace("\\\n", " ").splitlines():
                yield line.strip().removeprefix("$ ")


def commands_in(name: str, text: str) -> Iterator[Command]:
    """The commands in fenced shell, and those in running text that leave nothing open."""
    inline = (code for code in _INLINE.findall(_FENCE.sub("", text)))
    complete = (code for code in inline if not _PLACEHOLDER.search(code))
    for line in (*shell_lines(text), *complete):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for part in _between(words, {"&&", ";", "&", "|"}):
            yield Command(name, tuple(part))


def _between(words: Sequence[str], marks: set[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in (*words, ";"):
        if word not in marks:
            part.append(word)
        elif part:
            yield part
            part = []


@cache
def commands() -> tuple[Command, ...]:
    """Every command on every page, and in CI's script."""
    found = [
        command
        for page in PAGES
        for command in commands_in(str(page.relative_to(ROOT)), page.read_text("utf-8"))
    ]
    script = "\n".join(["```sh", (ROOT / ".ci" / "run").read_text().replace("(cd", "cd"), "```"])
    return (*found, *commands_in(".ci/run", script.replace(")\n", "\n")))


def is_palio(command: Command) -> bool:
    """Not what the server says itself, `palio is ready at …`, nor how a usage is written."""
    words = command.words
    if any(re.fullmatch(r"\[\w+\]|[A-Z]{3,}", word) for word in words):
        return False
    return Path(words[0]).name == "palio" and len(words) > 1 and words[1] != "is"


def changes_of(command: Command) -> list[str]:
    """What comes after --set or -s."""
    pairs = zip(command.words, command.words[1:], strict=False)
    return [value for flag, value in pairs if flag in ("--set", "-s")]


@cache
def targets() -> frozenset[str]:
    makefile = (ROOT / "Makefile").read_text()
    return frozenset(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def test_the_readme_names_the_two_commands_that_matter() -> None:
    named = {command.words for command in commands() if command.page == "README.md"}
    assert {("make", "run"), ("make", "test")} <= named


def test_every_make_target_that_a_page_names_exists() -> None:
    unknown = [
        str(command)
        for command in commands()
        if command.words[0] == "make"
        and not {word for word in command.words[1:] if word.isidentifier()} <= targets()
    ]
    assert not unknown


def test_every_target_of_the_makefile_is_declared_and_listed_by_a_bare_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == targets()
    assert ".DEFAULT_GOAL := help" in makefile
    listed = subprocess.run(
        ["make", "-s"],  # noqa: S607  (whichever make there is)
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets()


def test_every_palio_command_on_a_page_is_understood() -> None:
    wrong = []
    for command in filter(is_palio, commands()):
        if {"--help", "-h", "--version"} & set(command.words):
            continue
        try:
            function, bound, _ = app.parse_args(
                list(command.words[1:]), print_error=False, exit_on_error=False
            )
        except MissingArgumentError:
            # Running text may name a command without saying what for.
            continue
        except CycloptsError as error:
            wrong.append(f"{command}: {error}")
        else:
            # What is no command at all ends in the help.
            if inspect.unwrap(function).__module__ != "palio.cli":
                wrong.append(f"{command}: is no command")
            del bound
    assert not wrong, "\n".join(wrong)


def test_every_setting_that_an_example_changes_is_known_and_takes_that_value() -> None:
    wrong = []
    for command in filter(is_palio, commands()):
        for change in changes_of(command):
            key, _, value = change.partition("=")
            parts = key.split(".")
            models = parts[1:2] if parts[0] == "models" and parts[1] != "*" else ["toy"]
            try:
                load_settings(f"zoo:{models[0]}", {}, {key: value})
            except SettingsError as error:
                wrong.append(f"{command}: {error}")
    assert not wrong, "\n".join(wrong)


def anchors_of(page: Path) -> set[str]:
    """The anchors a page's headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title.strip().lower())).replace(" ", "-")
        for title in headings
    }


def test_every_link_within_the_repository_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
            if urlsplit(target).scheme:
                continue
            path, _, anchor = target.partition("#")
            place = (page.parent / path).resolve() if path else page
            there = place.exists() and ROOT in (place, *place.parents)
            if not there or (anchor and place.suffix == ".md" and anchor not in anchors_of(place)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_path_in_the_source_that_a_page_names_exists() -> None:
    known = {path.name for path in (ROOT / "src").rglob("*.py")}
    missing = []
    for page in PAGES:
        if "decisions" in page.parts or page.name == "CHANGELOG.md":
            continue
        for code in _INLINE.findall(_FENCE.sub("", page.read_text("utf-8"))):
            if re.fullmatch(r"[\w/]+/\w+\.py", code):
                tried = [ROOT / code, ROOT / "src" / code, ROOT / "src" / "palio" / code]
                if not any(path.exists() for path in tried):
                    near = get_close_matches(Path(code).name, known, 1)
                    missing.append(f"{page.relative_to(ROOT)}: {code} (near: {near})")
    assert not missing


def test_ci_runs_the_commands_that_everybody_can_run() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {"make check", "make test"} <= set(lines)
    assert "set -euo pipefail" in lines
    assert {"check", "test", "run"} <= targets()


def test_the_licence_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n")
    assert "Permission is hereby granted, free of charge" in text
    assert 'license = "MIT"' in (ROOT / "pyproject.toml").read_text()


def curls() -> list[Command]:
    """Every curl command on every page that asks this server."""
    return [command for command in commands() if command.words[0] == "curl" and urls_in(command)]


def urls_in(command: Command) -> list[str]:
    """Where it asks on this machine, with the scheme that curl takes for granted."""
    here = re.compile(r"(?:http://)?((?:localhost|127\.0\.0\.1)[:/].*)")
    return [f"http://{found[1]}" for word in command.words if (found := here.fullmatch(word))]


def test_every_curl_on_a_page_asks_a_route_that_exists() -> None:
    table = RouteTable({}, dict)
    unknown = []
    for command in curls():
        try:
            table.find((urlsplit(urls_in(command)[0]).path or "/").encode())
        except NotFound as error:
            unknown.append(f"{command}: {error}")
    assert not unknown


@pytest.mark.wire
@pytest.mark.model
def test_the_readmes_curl_commands_are_answered(tmp_path: Path, minilm: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    asked = [command for command in curls() if command.page == "README.md"]
    assert asked, "the README shows how to ask the server with curl"
    with serving(tmp_path, "zoo:minilm-l6") as served:
        for command in asked:
            there = urls_in(command)[0]
            here = served.url + there[len("http://" + urlsplit(there).netloc) :]
            words = [
                here if there.endswith(word) and ":" in word else word for word in command.words
            ]
            ended = subprocess.run(  # noqa: S603  (our own words, no shell)
                [*words, "--silent", "--show-error", "--fail-with-body", "--max-time", "30"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"


@pytest.mark.wire
@pytest.mark.model
def test_the_readmes_python_runs(tmp_path: Path, minilm: Path) -> None:
    blocks = [
        block for language, block in _FENCE.findall(README.read_text()) if language == "python"
    ]
    assert blocks, "the README shows how to ask the server with Python"
    with serving(tmp_path, "zoo:minilm-l6") as served:
        for block in blocks:
            code = re.sub(r"http://(127\.0\.0\.1|localhost):8000", served.url, block)
            ended = subprocess.run(  # noqa: S603  (our own words, no shell)
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ended.returncode == 0, ended.stderr
            promised = re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE)
            assert ended.stdout.splitlines()[: len(promised)] == promised


def test_commands_are_found_in_blocks_and_in_running_text() -> None:
    text = (
        "Say `make run` or `palio serve NAME`.\n\n"
        "```sh\n$ palio serve zoo:toy \\\n    --set cpus=1   # one\nmake a && make b\n```\n"
        "```python\nmake('c')\n```\n"
    )
    assert [command.words for command in commands_in("page", text)] == [
        ("palio", "serve", "zoo:toy", "--set", "cpus=1"),
        ("make", "a"),
        ("make", "b"),
        ("make", "run"),
    ]
