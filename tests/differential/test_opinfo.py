"""A share of PyTorch's own operator samples through the export; `benchmarks/operators.py` runs all of them.

Every sample is computed as torch computes it, or refused by name. What the table of all samples calls equal is not
refused.
"""

import json
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")

import torch
from support import opinfo
from torch.testing._internal.common_methods_invocations import op_db

from planc.errors import ModelError

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "operators.json"
ROWS = {row["operator"]: row for row in json.loads(TABLE.read_text())} if TABLE.exists() else {}
HALVES = {
    dtype: TABLE.with_stem(f"{TABLE.stem}_{str(dtype).removeprefix('torch.')}")
    for dtype in (torch.bfloat16, torch.float16)
}
"""Tables of the samples in half precision."""

SHARE = 12
"""One operator in so many has its turn in the suite."""

MENDED = {
    "addmm", "as_strided_scatter", "nn.functional.embedding_bag", "nn.functional.conv_transpose2d", "atan2", "log1p",
    "nn.functional.avg_pool2d", "nn.functional.nll_loss", "put", "index_reduce.mean", "slice_scatter", "sort", "expm1",
    "logcumsumexp", "histc", "resize_",
}  # fmt: skip
"""Operators that were wrong once: they have their turn always."""


def _has_its_turn(name: str) -> bool:
    drawn = zlib.crc32(name.encode()) % SHARE == 0
    return name in MENDED or (drawn and ROWS.get(name, {}).get("status") in ("equal", "refused"))


CHOSEN = {op.full_name: op for op in op_db if _has_its_turn(op.full_name)}


@pytest.mark.parametrize("name", CHOSEN)
def test_samples_agree_with_torch_or_are_refused_by_name(name: str) -> None:
    op = CHOSEN[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listed = list(opinfo.samples(op, op.supports_autograd))
        few = [listed[0], listed[-1]] if name in MENDED else listed[:1]
        for sample in [*few, *opinfo.extremes(op)]:
            try:
                assert opinfo.difference(sample) is None, sample.name
            except ModelError:
                assert ROWS.get(name, {}).get("status") != "equal", sample.name


def _halves() -> Iterator[tuple[str, Any]]:
    """Every thirtieth operator that a table of half precision calls equal, and those that were mended there."""
    for dtype, table in HALVES.items():
        equal = [row["operator"] for row in json.loads(table.read_text()) if row["status"] == "equal"]
        for name in equal:
            if (
                name in ("bernoulli", "cumprod", "logcumsumexp", "sort")
                or zlib.crc32(f"{name} {dtype}".encode()) % 30 == 0
            ):
                yield name, dtype


@pytest.mark.parametrize(("name", "dtype"), list(_halves()), ids=str)
def test_samples_in_half_precision_agree_with_torch(name: str, dtype: Any) -> None:
    op = next(op for op in op_db if op.full_name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = next(opinfo.samples(op, op.supports_autograd, dtype))
        assert opinfo.difference(sample, dtype) is None, sample.name
