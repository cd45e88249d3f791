"""Memory against time of every row of head_to_head.json, a curve each for planc and PyTorch, as one SVG file.

python benchmarks/gpu/picture.py benchmarks/gpu/results/head_to_head.json docs/results/head_to_head.svg
"""

import json
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 300, 56, 40, 34, 14
COLUMNS, TICKS = 2, 4
COLOURS = {"planc": "#0a66c2", "torch": "#c2410c"}

STYLE = f"""<style>.title {{font-size: 14px; font-weight: bold}} .axis {{fill: none; stroke: #888}}
.x {{text-anchor: middle}} .y, .mode {{text-anchor: end}} .mode {{fill: {COLOURS["torch"]}}}
.planc {{fill: none; stroke: {COLOURS["planc"]}; stroke-width: 2}}</style><rect width="100%" height="100%" fill="#fff"/>"""

Row = dict[str, Any]


def panel(title: str, rows: list[Row], x: float, y: float) -> Iterable[str]:
    """One step in one precision: axes from zero, planc's budgets joined, PyTorch's modes named."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most_mib, most_ms = max(r["asked_mib"] for r in rows) * 1.1, max(r["ms"] for r in rows) * 1.1
    yield f'<g transform="translate({x},{y})"><text x="{LEFT}" y="20" class="title">{escape(title)}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    for tick in range(TICKS + 1):
        at, mib, ms = tick / TICKS, most_mib * tick / TICKS, most_ms * tick / TICKS
        yield f'<text x="{LEFT + at * wide:.1f}" y="{HEIGHT - BOTTOM + 16}" class="x">{mib:.0f}</text>'
        yield f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM - at * high + 4:.1f}" class="y">{ms:.0f}</text>'
    yield f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 8}" class="x">MiB asked</text>'
    yield f'<text x="12" y="{TOP - 8}">ms</text>'
    left, base = wide / most_mib, high / most_ms
    places = {id(r): (LEFT + r["asked_mib"] * left, HEIGHT - BOTTOM - r["ms"] * base) for r in rows}
    curve = sorted(places[id(r)] for r in rows if r["system"] == "planc")
    yield f'<polyline class="planc" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in curve)}"/>'
    for row in rows:
        a, b = places[id(row)]
        name = f"{row['system']} {row['mode']}: {row['asked_mib']} MiB, {row['ms']} ms"
        colour = COLOURS[row["system"]]
        yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"><title>{escape(name)}</title></circle>'
        if row["system"] == "torch":
            yield f'<text x="{a - 6:.1f}" y="{b - 6:.1f}" class="mode">{escape(row["mode"])}</text>'
    yield "</g>"


def picture(rows: Iterable[Row]) -> str:
    """All steps that have rows of both systems."""
    steps: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("ms") is not None and row.get("asked_mib"):
            steps.setdefault((row["step"], row["precision"]), []).append(row)
    both = {key: found for key, found in steps.items() if {r["system"] for r in found} == set(COLOURS)}
    lines = -(-len(both) // COLUMNS)
    size = f"0 0 {COLUMNS * WIDTH} {lines * HEIGHT}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="11">',
        STYLE,
    ]
    for index, ((step, precision), found) in enumerate(both.items()):
        where = index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT
        parts += panel(f"{step}, {precision} (blue planc, red PyTorch)", found, *where)
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(json.loads(Path(sys.argv[1]).read_text())))
