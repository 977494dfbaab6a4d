"""Writes the reference pages that are generated from the code; with --check only compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from palio import cli, settings
from palio.telemetry import names
from palio.wire import problems

ROOT: Final = Path(__file__).parent.parent / "docs" / "reference"


def _schema() -> str:
    return orjson.dumps(settings.json_schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


def _command_line() -> str:
    text = cli.app.generate_docs(output_format="markdown", heading_level=1)
    # Its synopses are no commands to type, so they are not fenced as such.
    rest = text.removeprefix("# palio\n").replace("```console", "```text")
    lines = [line.rstrip() for line in rest.strip().splitlines()]
    head = "<!-- Written from palio/cli.py by `make docs`; do not edit. -->"
    return "\n".join((head, "", "# Command line", "", *lines, ""))


PAGES: Final[dict[str, Callable[[], str]]] = {
    "cli.md": _command_line,
    "settings.md": settings.reference_page,
    "palio.schema.json": _schema,
    "metrics.md": names.reference_page,
    "errors.md": problems.reference_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page is out of date")
    only_check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        path = ROOT / name
        text = make()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not only_check:
            path.write_text(text, "utf-8")
    if stale and only_check:
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
