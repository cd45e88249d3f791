"""docs/results/policies.svg: the picture of `planc compare`, memory against step time, from the committed rows."""

import re
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from planc.report.page import write_comparison_page
from planc.report.row import Row
from planc.report.scatter import HEIGHT, WIDTH, scatter_scene

PICTURE = Path(__file__).parents[1] / "docs" / "results" / "policies.svg"
SHOWN = ("resnet50", "titan-x-maxwell")
SOLVERS = ("mip", "capuchin", "dtr", "rotor", "superneurons", "sqrt-n", "layup", "layrub", "vdnn-all")
"""Those that a picture can hold."""

_ENTRY, _LETTER, _LEGEND = 34, 7, 26


def write_picture(found: dict[str, list[dict[str, Any]]]) -> None:
    """Draw the rows of one network and card; nothing where they are not there yet."""
    peaks = [r["slab_bytes"] for r in found["smallest"] if _place(r) == SHOWN and r["solver"] == "keep-all"]
    mine = [r for r in found["rows"] if _place(r) == SHOWN and r["solver"] in SOLVERS]
    if not peaks or not mine:
        return
    order = sorted(mine, key=lambda r: (SOLVERS.index(r["solver"]), r["budget_fraction"]))
    rows = [_row(r, peaks[0]) for r in order]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        write_comparison_page(path, rows, SHOWN[0], peaks[0])
        PICTURE.write_text(_drawn(path.read_text(), rows, peaks[0]))


def _place(row: dict[str, Any]) -> tuple[str, str]:
    return row["network"], row["card"]


def _row(row: dict[str, Any], peak: int) -> Row:
    over = row["overhead"]
    return Row(
        row["solver"],
        int(peak * row["budget_fraction"]),
        row["status"],
        row["solve_s"],
        predicted_step_ns=None if over is None else round((1 + over) * 10**9),
        overhead=over,
        gap=None if over is None else 0.0,
        slab_bytes=row["slab_bytes"],
        swapped_bytes=0,
        recomputed_layers=0,
    )


def _drawn(page: str, rows: Sequence[Row], peak: int) -> str:
    """The page's picture as a file of its own, with the page's style and a legend."""
    style = re.findall(r"<style>.*?</style>", page, re.S)[0]
    inner = re.findall(r'<svg class="chart"[^>]*>(.*?)</svg>', page, re.S)[0]
    drawn = scatter_scene(rows, peak).series
    places = accumulate((_ENTRY + _LETTER * len(series.name) for series in drawn), initial=12)
    legend = "".join(
        f'<g class="series {series.style}"><circle cx="{x}" cy="{HEIGHT + 14}" r="5"/>'
        f'<text x="{x + 10}" y="{HEIGHT + 18}">{series.name}</text></g>'
        for series, x in zip(drawn, places, strict=False)
    )
    box = f'viewBox="0 0 {WIDTH} {HEIGHT + _LEGEND}"'
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" {box}>{style}{paper}{inner}{legend}</svg>\n'
