"""docs/results/policies.md from benchmarks/results/policies.json."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "results" / "policies.md"
_BEGIN, _END = "<!-- tables: benchmarks.policies table -->", "<!-- end of tables -->"

Rows = Sequence[dict[str, Any]]


def write_table(found: dict[str, list[dict[str, Any]]]) -> None:
    """Replace the part of the page between its marks by the tables."""
    text = PAGE.read_text()
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    parts = (
        _overheads(found.get("rows", [])),
        _smallest(found.get("smallest", [])),
        _claims(found.get("claims", [])),
        _measured(found.get("measured", [])),
        _deepest(found.get("deepest", [])),
        _published(found.get("published", [])),
    )
    tables = "\n".join(line for part in parts for line in part)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{tables}\n{_END}{after}")


def _overheads(rows: Rows) -> list[str]:
    """A table for each network and card: policies by budget."""
    lines = []
    for network, batch, card in dict.fromkeys((r["network"], r["batch"], r["card"]) for r in rows):
        mine = [r for r in rows if (r["network"], r["card"]) == (network, card)]
        shares = sorted({r["budget_fraction"] for r in mine}, reverse=True)
        lines += [f"### {network}, batch {batch}, {card}", "", _line(["policy", *(f"{100 * s:g} %" for s in shares)])]
        lines.append("|---" * (len(shares) + 1) + "|")
        by_cell = {(r["solver"], r["budget_fraction"]): r for r in mine}
        without: dict[str, list[str]] = {}
        for solver in _by_merit(mine):
            cells = [_cell(by_cell.get((solver, s)), mine) for s in shares]
            if any("%" in cell for cell in cells):
                lines.append(_line([solver, *cells]))
            else:
                what = "no plan in time" if "time-out" in cells else "refuse" if "refuses" in cells else "no plan"
                without.setdefault(what, []).append(solver)
        lines += ["", "; ".join(f"{what}: {', '.join(names)}" for what, names in without.items()), ""]
    return lines


def _by_merit(rows: Rows) -> list[str]:
    """Solvers, those with most plans first, then the fastest."""
    names = dict.fromkeys(r["solver"] for r in rows)

    def key(name: str) -> tuple[bool, int, float]:
        plans = [r["overhead"] for r in rows if r["solver"] == name and r["overhead"] is not None]
        return name != "mip", -len(plans), sum(plans)

    return sorted(names, key=key)


def _cell(row: dict[str, Any] | None, rows: Rows) -> str:
    if row is None:
        return ""
    if row["overhead"] is None:
        return {"infeasible": "–", "timeout": "time-out", "untried": "time-out", "refused": "refuses"}[row["status"]]
    best = min(
        r["overhead"] for r in rows if r["budget_fraction"] == row["budget_fraction"] and r["overhead"] is not None
    )
    text = f"{100 * row['overhead']:+.2f} %"
    return f"**{text}**" if row["overhead"] <= best else text


def _smallest(rows: Rows) -> list[str]:
    if not rows:
        return []
    points = list(dict.fromkeys((r["network"], r["card"]) for r in rows))
    lines = ["### The least budget of each policy, in % of the liveness peak", ""]
    lines += [_line(["policy", *(f"{network}, {card}" for network, card in points)]), "|---" * (len(points) + 1) + "|"]
    cells = {(r["solver"], r["network"], r["card"]): r for r in rows}
    alone = {(r["network"], r["card"]): r["layer_alone"] for r in rows}
    lines.append(_line(["*a layer alone*", *(f"{100 * alone[point]:.1f}" for point in points)]))
    for solver in sorted({r["solver"] for r in rows}, key=lambda name: (name != "mip", name)):
        texts = []
        for point in points:
            row = cells.get((solver, *point))
            share = row["smallest_fraction"] if row else None
            texts.append("refuses" if row is None else "over 100" if share is None else f"{100 * share:.1f}")
        lines.append(_line([solver, *texts]))
    return [*lines, ""]


def _measured(rows: Rows) -> list[str]:
    if not rows:
        return []
    heads = ("network", "policy", "budget", "step", "unplanned", "overhead", "predicted", "peak", "bits")
    lines = ["### Run on the CPU", "", _line(heads), "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["network"], row["solver"], f"{100 * row['budget_fraction']:g} %"]
        if row["step_ns"] is None:
            cells += ["no plan" if row["status"] == "infeasible" else row["status"], *[""] * (len(heads) - 4)]
        else:
            cells += [f"{row['step_ns'] / 1e6:.0f} ms", f"{row['unplanned_ns'] / 1e6:.0f} ms"]
            cells += [_share(row["step_ns"] / row["unplanned_ns"] - 1, "+"), _share(row["overhead"], "+")]
            cells.append(f"{row['peak_bytes'] / 2**20:.0f} MiB")
            cells.append("equal" if row["bitwise_equal"] else "differ")
        lines.append(_line(cells))
    return [*lines, ""]


def _deepest(rows: Rows) -> list[str]:
    if not rows:
        return []
    lines = [
        "### Depths of ResNet that fit at batch 16 within 12 GB (Titan X)",
        "",
        _line(["policy", "deepest tried that fits", "overhead there"]),
    ]
    lines.append("|---|---|---|")
    for row in sorted(rows, key=lambda r: -(r["depth"] or 0)):
        over = "" if row["depth"] is None else f"{100 * row['overhead']:+.1f} %"
        lines.append(_line([row["solver"], f"{row['depth']:,}" if row["depth"] else "none", over]))
    return [*lines, ""]


def _claims(rows: Rows) -> list[str]:
    if not rows:
        return []
    heads = (
        "policy", "network", "saved at the peak", "saved on average", "without state", "overhead", "mip in the same peak",
    )  # fmt: skip
    lines = ["### What policies save against Caffe's allocations, and planc within the same peak", "", _line(heads)]
    lines.append("|---" * len(heads) + "|")
    for row in rows:
        depth = f" of {row['depth']:,} layers" if "depth" in row else ""
        cells = [row["policy"], f"{row['network']}{depth}, batch {row['batch']}"]
        cells += [_share(row.get(key)) for key in ("saved_peak", "saved_mean", "saved_mean_maps")]
        cells += [_share(row["overhead"], "+") or "no plan", _share(row["mip_overhead"], "+") or "no plan"]
        lines.append(_line(cells))
    return [*lines, ""]


def _share(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f} %"


def _published(rows: Rows) -> list[str]:
    if not rows:
        return []
    solvers = list(dict.fromkeys(r["solver"] for r in rows))
    lines = ["### Instances of Checkmate's and MOCCASIN's tables, overhead and seconds", ""]
    lines += [_line(["instance (nodes)", "budget", *solvers]), "|---" * (len(solvers) + 2) + "|"]
    cells = {(r["instance"], r["budget_fraction"], r["solver"]): r for r in rows}
    for name, nodes, share in dict.fromkeys((r["instance"], r["nodes"], r["budget_fraction"]) for r in rows):
        texts = []
        for solver in solvers:
            row = cells.get((name, share, solver))
            known = row is not None and row["overhead"] is not None
            texts.append(
                "" if row is None else f"{100 * row['overhead']:.3f} %, {row['solve_s']} s" if known else row["status"]
            )
        lines.append(_line([f"{name} ({nodes})", f"{share:g}", *texts]))
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
