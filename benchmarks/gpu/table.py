"""head_to_head.json as a table in Markdown: planc's rows beside the fastest of PyTorch, as ratios of its time and memory.

python benchmarks/gpu/table.py benchmarks/gpu/results/head_to_head.json
"""

import json
import sys
from pathlib import Path
from typing import Any

HEAD = "| step | | | MiB asked | MiB by the driver | ms | of PyTorch's fastest | predicted | bound | bits equal, repeated |"

Row = dict[str, Any]


def line(row: Row, fastest: float) -> str:
    def number(name: str) -> str:
        return "" if row.get(name) is None else f"{row[name]:,}"

    known = [row["bits_equal"], row["repeatable"]] if row["system"] == "planc" else []
    proofs = ", ".join("yes" if value else "**no**" for value in known)
    cells = [
        f"{row['step']}, {row['precision']}", row["system"], row["mode"], number("asked_mib"), number("driver_mib"),
        number("ms"), f"{row['ms'] / fastest:.2f}", number("predicted_ms"), number("bound_ms"), proofs,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Every row that was measured."""
    rows = [row for row in json.loads(Path(sys.argv[1]).read_text()) if row.get("ms") is not None]
    print(f"{HEAD}\n|{'---|' * HEAD.count(' |')}")
    for row in rows:
        same = [r["ms"] for r in rows if all(r[k] == row[k] for k in ("step", "precision")) and r["system"] == "torch"]
        if same:
            print(line(row, min(same)))


if __name__ == "__main__":
    main()
