"""A cost table for people: layers and kinds of layers, what they take to compute, to move and to make again."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planc.costs.table import CostTable
from planc.planning.layer_costs import LayerReport, by_kind
from planc.report.text import plain_table
from planc.units import NS_PER_MS

_MIB = 1 << 20

_SLOWEST = 20
"""Layers shown unless all are asked for."""


def costs_json(costs: CostTable, reports: Sequence[LayerReport]) -> dict[str, object]:
    """Reports by layer and by kind, as one JSON object."""
    return {
        "device": costs.device.name,
        "estimated": costs.estimated,
        "layers": [_as_json(report) for report in reports],
        "kinds": [_as_json(report) for report in by_kind(reports)],
    }


def _as_json(report: LayerReport) -> dict[str, object]:
    return {**asdict(report), "ratio": report.ratio, "cheaper": report.cheaper, "factor": report.factor}


def print_costs(console: Console, costs: CostTable, reports: Sequence[LayerReport], every: bool) -> None:
    """Print one row a kind, then the slowest layers, or `every` one in the order of the forward pass."""
    console.print(f"{costs.identity}: {len(reports)} layers in the forward pass")
    console.print(_table("by kind of layer", by_kind(reports), "kind"))
    shown = list(reports) if every else sorted(reports, key=lambda r: -r.forward_ns)[:_SLOWEST]
    title = "layers" if len(shown) == len(reports) else f"the {len(shown)} slowest layers (--all shows every one)"
    console.print(_table(title, shown, "layer"))
    console.print(
        Text(
            "times in ms, saved in MiB; out, in: all results of the layer to the host and back;\n"
            "f/copy: its forward time in times the longer copy; saved: what waits for the backward\n"
            "pass; again: making that anew from what else is saved; cheaper: again, or its copy",
            style="dim",
        )
    )


def _table(title: str, reports: Sequence[LayerReport], first: str) -> Table:
    table = plain_table(title)
    table.padding = (0, 1, 0, 0)
    table.add_column(first, overflow="fold", min_width=13)
    for name in ("forward", "backward", "out", "in", "f/copy", "saved", "again", "cheaper"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in reports:
        name = f"{r.kind or 'other'} ({r.layers})" if first == "kind" else r.name
        times = [_ms(ns) for ns in (r.forward_ns, r.backward_ns, r.out_ns, r.in_ns)]
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        saved = f"{r.saved_bytes / _MIB:.1f}" if r.saved_bytes else ""
        again = _ms(r.remake_ns) if r.remake_ns is not None and r.saved_bytes else ""
        table.add_row(name, *times, ratio, saved, again, _verdict(r))
    return table


def _ms(ns: int) -> str:
    return f"{ns / NS_PER_MS:.3f}" if ns < NS_PER_MS else f"{ns / NS_PER_MS:.2f}"


def _verdict(report: LayerReport) -> str:
    """`copy 3.8×`: what is cheaper for what the layer saves, and by how much."""
    word = {"transfer": "copy", "recompute": "again"}.get(report.cheaper, "")
    return word if report.factor is None else f"{word} {report.factor:.1f}×"
