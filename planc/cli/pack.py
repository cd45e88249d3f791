"""`planc pack`: offsets for a file of buffers."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import out, print_json
from planc.cli.options import Deterministic, Json, Seed, TimeLimit
from planc.cli.outputs import require_outputs
from planc.clock import WALL, WorkClock
from planc.units import format_bytes, parse_size


def pack(
    buffers: Path,
    capacity: Annotated[str | None, typer.Option("--capacity", help="Bytes that are enough, such as 8GiB.")] = None,
    time_limit: TimeLimit = 10.0,
    seed: Seed = 0,
    deterministic: Deterministic = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the offsets.")] = None,
    json: Json = False,
) -> None:
    """Pack BUFFERS, MiniMalloc's CSV (id,lower,upper,size[,alignment,gaps,offset]), as low as possible or into --capacity
    bytes."""
    from planc.packing import pack as packing
    from planc.packing.csv import read_buffers, write_offsets

    require_outputs((buffers,), {"-o": output})
    table = read_buffers(buffers)
    limit = None if capacity is None else parse_size(capacity, 0)
    clock = WorkClock() if deterministic else WALL
    packed = packing.pack(table.buffers, capacity=limit, time_limit=time_limit, seed=seed, clock=clock)
    if json:
        print_json({"height": packed.height, "lower_bound": packed.lower_bound,
                    "solve_s": packed.solve_s, "status": packed.status})  # fmt: skip
    else:
        out().print(f"{packed.status}: height {packed.height} ({format_bytes(packed.height)}), "
                    f"lower bound {packed.lower_bound}, {packed.solve_s:.2f} s")  # fmt: skip
    packing.require_fit(packed, limit)
    if output is not None:
        write_offsets(output, table, packed.offsets)
