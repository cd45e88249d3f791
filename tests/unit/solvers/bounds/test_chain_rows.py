"""Chain rows raise the relaxation of a published instance, and an integer point violates none."""

from pathlib import Path

from planc.instances.instance import read_instance
from planc_solvers.bounds.chain_rows import add_chain_rows
from planc_solvers.bounds.coarse_model import coarse_model

INSTANCES = Path(__file__).parents[4] / "benchmarks" / "solver" / "instances"


def test_chain_rows_raise_the_bound_of_resnet50() -> None:
    read = read_instance(INSTANCES / "resnet50_train.json")
    coarse = coarse_model(read.with_budget(int(read.peak_bytes * 0.2)), (180, 273, 315))
    before = coarse.model.solve(20, relaxed=True)
    assert before.point is not None
    assert add_chain_rows(coarse, before.point) > 0
    after = coarse.model.solve(20, relaxed=True)
    assert after.bound > before.bound + 0.002


def test_an_integer_point_violates_no_chain_row() -> None:
    read = read_instance(INSTANCES / "resnet50_train.json")
    coarse = coarse_model(read.with_budget(int(read.peak_bytes * 0.5)), (180, 273))
    answer = coarse.model.solve(20, gap=0.01)
    assert answer.point is not None
    assert add_chain_rows(coarse, answer.point) == 0
