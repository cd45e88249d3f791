"""What layers' results cost to move and to make again, on a chain small enough to add up by hand."""

from dataclasses import replace

import pytest
from support.labelled import Layer, training_chain

from planc.planning.layer_costs import by_kind, layer_reports, mean_ratio
from planc.problem.problem import Problem


@pytest.fixture
def chain() -> Problem:
    """conv (not saved) → relu (saved by itself) → norm (not saved) → conv → linear, at 2 ns a byte and direction."""
    return training_chain(
        [
            Layer("conv", 100, 900, "nothing"),
            Layer("relu", 100, 30, "output"),
            Layer("norm", 80, 50, "nothing"),
            Layer("conv", 40, 700, "nothing"),
            Layer("linear", 10, 60, "input"),
        ],
        image=30,
        copy_ns=2,
    )


def test_each_layer_has_its_times_copies_and_what_it_takes_to_make_again(chain: Problem) -> None:
    conv, relu, norm, second, linear = layer_reports(chain)
    assert (conv.name, conv.kind, conv.forward_ns, conv.backward_ns) == ("l0", "conv", 900, 1800)
    assert (conv.output_bytes, conv.out_ns, conv.in_ns) == (100, 200, 200)
    assert (conv.saved_bytes, conv.remake_ns, conv.cheaper, conv.factor) == (0, None, "", None)
    assert conv.ratio == 900 / 200
    # y1 is saved; to make it again takes the ReLU and, as y0 is not saved, the convolution before it
    assert (relu.saved_bytes, relu.saved_ns, relu.remake_ns, relu.cheaper) == (100, 200, 930, "transfer")
    assert relu.factor == pytest.approx(930 / 200)
    assert norm.saved_bytes == 0
    # y3 is saved for the linear layer: from y1, which is saved, through the norm
    assert (second.saved_bytes, second.saved_ns, second.remake_ns, second.cheaper) == (40, 80, 750, "transfer")
    assert linear.saved_bytes == 0


def test_recomputation_is_cheaper_where_the_link_is_slow(chain: Problem) -> None:
    slow = replace(chain, values=tuple(replace(v, copy_in_ns=v.bytes * 50) for v in chain.values))
    relu = layer_reports(slow)[1]
    assert (relu.out_ns, relu.in_ns, relu.saved_ns) == (200, 5000, 5000)
    assert relu.cheaper == "recompute"
    assert relu.factor == pytest.approx(5000 / 930)


def test_what_cannot_run_again_is_transferred(chain: Problem) -> None:
    tasks = (replace(chain.tasks[0], recomputable=False), *chain.tasks[1:])
    relu = layer_reports(replace(chain, tasks=tasks))[1]
    assert (relu.remake_ns, relu.cheaper, relu.factor) == (None, "transfer", None)


def test_kinds_are_sums_of_their_layers_and_ratios_have_a_mean(chain: Problem) -> None:
    reports = layer_reports(chain)
    kinds = by_kind(reports)
    assert [(k.kind, k.layers) for k in kinds] == [("conv", 2), ("linear", 1), ("norm", 1), ("relu", 1)]
    assert (kinds[0].forward_ns, kinds[0].output_bytes, kinds[0].saved_bytes, kinds[0].remake_ns) == (
        1600,
        140,
        40,
        750,
    )
    assert mean_ratio(reports, ("conv", "linear")) == pytest.approx((900 / 200 + 700 / 80 + 60 / 20) / 3)
    assert mean_ratio(reports, ("pool",)) is None


def test_labels_of_the_step_are_needed_only_for_the_backward_pass(chain: Problem) -> None:
    bare = replace(chain, tasks=tuple(replace(t, phase="", kind="") for t in chain.tasks))
    assert len(layer_reports(bare)) == len(chain.tasks)
