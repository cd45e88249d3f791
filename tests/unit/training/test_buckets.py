"""Buckets of gradients: all of them in order, small ones last, and the last exchange hidden by updates that waited."""

import onnx
from hypothesis import given
from hypothesis import strategies as st
from support.networks import forward_cnn

from planc.graph.annotations import node_annotation
from planc.kernels.exchange import is_exchange
from planc.training import Optimizer, differentiate
from planc.training.emit.builder import LayerGroup, Var
from planc.training.micro_batches import Ready
from planc.training.ranks import await_positions, buckets_of, nbytes
from planc.training.step_options import StepOptions
from planc.zoo import ZooOptions, build_forward

GROUP = LayerGroup("layer", "conv", "backward")

sizes = st.lists(st.integers(1, 500), min_size=1, max_size=40)


def gradients(elements: list[int]) -> list[Ready]:
    return [Ready(f"p{at}", Var(f"g{at}", (n,), onnx.TensorProto.FLOAT), GROUP, at) for at, n in enumerate(elements)]


@given(sizes, st.integers(1, 2000))
def test_buckets_keep_the_order_and_only_the_first_is_not_full(elements: list[int], limit: int) -> None:
    ready = gradients(elements)
    buckets = buckets_of(ready[::-1], limit)
    assert [r.name for bucket in buckets for r in bucket] == [r.name for r in ready]
    least = max(1, limit // 8)
    for bucket in reversed(buckets[1:]):
        held = [nbytes(r.gradient) for r in bucket]
        assert sum(held) >= least > sum(held[1:])
        least = min(limit, 2 * least)


@given(sizes, st.integers(1, 2000))
def test_a_bucket_is_awaited_where_the_next_is_complete(elements: list[int], limit: int) -> None:
    buckets = buckets_of(gradients(elements), limit)
    positions = await_positions(buckets)
    assert positions == sorted(positions)
    assert all(p >= bucket[-1].position for p, bucket in zip(positions, buckets, strict=True))


def test_updates_of_earlier_buckets_stand_before_the_last_exchange() -> None:
    options = StepOptions(ranks=2, bucket_bytes=4000)
    made = differentiate(forward_cnn(), loss="cross-entropy", optimizer=Optimizer("momentum"), options=options)
    nodes = list(made.graph.node)
    exchanges = [at for at, node in enumerate(nodes) if is_exchange(node.op_type, node.domain)]
    last_backward = max(at for at, node in enumerate(nodes) if phase(node) == "backward")
    between = nodes[last_backward + 1 : exchanges[-1]]
    waited = sum(is_exchange(node.op_type, node.domain) for node in between)
    assert waited >= 2, "more than the last but one wait for the last bucket"
    assert sum(phase(node) == "update" for node in between) > waited
    assert any(phase(node) == "update" for node in nodes[:last_backward]), "others do not wait"


def phase(node: onnx.NodeProto) -> str:
    return (node_annotation(node) or ("", "", ""))[2]


def test_nothing_of_running_statistics_stands_within_the_forward_pass() -> None:
    built = build_forward("resnet18", ZooOptions(batch=1, image=32))
    made = differentiate(built.model, loss=built.loss, optimizer=Optimizer("momentum"), options=StepOptions(ranks=2))
    phases = [phase(node) for node in made.graph.node]
    assert "update" not in phases[: max(at for at, found in enumerate(phases) if found == "forward")]
