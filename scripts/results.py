"""Puts what benchmarks/embed.py --save wrote into the README: one table, one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
import vl_convert

DOCS: Final = Path(__file__).parent.parent / "docs"
COLOURS: Final = {
    "tokenise + model, no server": "#9aa5b1",
    "served, batching off": "#e8a33d",
    "served, batching on": "#2f6fb3",
}


def arm_of(name: str) -> str:
    return "tokenise + model, no server" if name.startswith("bare") else name


def callers_of(count: int) -> str:
    return "1 caller" if count == 1 else f"{count} callers"


def spec_of(kept: dict[str, Any]) -> dict[str, Any]:
    """Bars side by side for 1, 8 and 32 callers, each with its figure on top."""
    values = [
        {"callers": callers_of(row["callers"]), "arm": arm_of(row["arm"]), "rows": row["rows/s"]}
        for row in kept["rows"]
    ]
    place = {
        "x": {
            "field": "arm",
            "type": "nominal",
            "sort": list(COLOURS),
            "axis": None,
        },
        "y": {"field": "rows", "type": "quantitative", "title": "sentences a second"},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "title": {
            "text": "One core, MiniLM, short questions",
            "subtitle": "what the model alone can do, and what callers get through the server",
            "anchor": "start",
        },
        "data": {"values": values},
        "facet": {
            "column": {
                "field": "callers",
                "type": "ordinal",
                "sort": ["1 caller", "8 callers", "32 callers"],
                "header": {"title": None, "labelOrient": "bottom", "labelFontSize": 12},
            }
        },
        "spec": {
            "width": 150,
            "height": 220,
            "layer": [
                {
                    "mark": {"type": "bar", "cornerRadiusEnd": 2},
                    "encoding": {
                        **place,
                        "color": {
                            "field": "arm",
                            "type": "nominal",
                            "sort": list(COLOURS),
                            "scale": {"domain": list(COLOURS), "range": list(COLOURS.values())},
                            "legend": {"title": None, "orient": "top", "columns": 3},
                        },
                    },
                },
                {
                    "mark": {"type": "text", "dy": -7, "fontSize": 11},
                    "encoding": {**place, "text": {"field": "rows", "format": ".0f"}},
                },
            ],
        },
        "config": {"font": "sans-serif", "view": {"stroke": None}, "axis": {"grid": False}},
    }


def table_of(kept: dict[str, Any]) -> str:
    """The rows as Markdown, with the claims that are ratios below them."""
    columns = ("callers", "arm", "rows/s", "p50 ms", "p99 ms", "mean batch")
    lines = [
        f"{kept['title']}; {kept['date']}, `python benchmarks/embed.py`.",
        "",
        "| callers | | sentences/s | p50 ms | p99 ms | mean batch |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    lines += [
        "| " + " | ".join(str(row.get(column, "")) for column in columns) + " |"
        for row in kept["rows"]
    ]
    lines += ["", "Ratios, each a median over the rounds (least to most):", ""]
    lines += [f"- {claim}: {value}" for claim, value in kept["ratios"].items()]
    return "\n".join(lines)


def main() -> None:
    kept = orjson.loads((DOCS / "benchmarks/embed.json").read_bytes())
    svg = vl_convert.vegalite_to_svg(spec_of(kept))
    (DOCS / "pictures").mkdir(exist_ok=True)
    (DOCS / "pictures/embed.svg").write_text(svg, "utf-8")
    readme = DOCS.parent / "README.md"
    before, rest = readme.read_text("utf-8").split("<!-- table -->\n")
    after = rest.split("<!-- end of table -->\n")[1]
    parts = (before, "<!-- table -->\n", table_of(kept), "\n\n<!-- end of table -->\n", after)
    readme.write_text("".join(parts), "utf-8")


if __name__ == "__main__":
    main()
