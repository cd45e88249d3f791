"""Networks that oneDNN computes: planned, they keep the bits of the unplanned step."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.training_steps import loss_name, random_batch

import planc
from planc.errors import DeviceError
from planc.importer.import_model import import_model
from planc.kernels import DOMAIN
from planc.runtime.measure import UnplannedStep
from planc.runtime.onednn.library import onednn
from planc.training import Optimizer
from planc.zoo import ZooOptions, build_step

pytestmark = pytest.mark.skipif(onednn() is None, reason="onednn-cpu-gomp is not installed")

OPTIONS = ZooOptions(batch=4, image=32, classes=10)


def test_planned_steps_equal_unplanned_ones_and_follow_the_portable_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, portable = (build_step("resnet18", OPTIONS, Optimizer("momentum"), forms) for forms in ("onednn", "cpu"))
    assert {node.domain for node in model.graph.node} == {"", DOMAIN}
    path = tmp_path / "resnet18.onnx"
    onnx.save(model, path)
    plan = planc.compile(path, budget="60%", time_limit=5)
    assert plan.copies or len(plan.runs) > plan.model.layers
    feeds = random_batch(model)
    with planc.load(plan, path) as step:
        beside = UnplannedStep(step.imported)
        for _ in range(2):
            ours, theirs = step(feeds), beside(feeds)
            assert ours.keys() <= theirs.keys()
            for name, value in ours.items():
                np.testing.assert_array_equal(value, theirs[name])
    first = float(UnplannedStep(import_model(model))(feeds)[loss_name(model)])
    assert first == pytest.approx(float(UnplannedStep(import_model(portable))(feeds)[loss_name(portable)]), rel=1e-5)
    monkeypatch.setattr("planc.runtime.onednn.version.onednn_version", lambda: "no oneDNN")
    with pytest.raises(
        DeviceError, match="kernels .oneDNN 20.*, here no oneDNN.: install those, or measure and compile"
    ):
        planc.load(plan, path)


@pytest.mark.parametrize(("name", "size"), [("gpt2", {"seq": 64}), ("vit_b16", {"image": 64})])
def test_transformers_keep_their_bits_and_train_as_portable_forms_do(
    name: str, size: dict[str, int], tmp_path: Path
) -> None:
    options = ZooOptions(batch=8, width=64, depth=2, classes=50, **size)
    model, portable = (build_step(name, options, Optimizer("adamw", 1e-3), forms) for forms in ("onednn", "cpu"))
    own = {node.op_type.partition("_")[0] for node in model.graph.node if node.domain == DOMAIN}
    assert {"Attention", "AttentionGradient", "LayerNorm", "LayerNormGradient", "Adam"} <= own
    assert not any(node.domain for node in portable.graph.node)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    plan = planc.compile(path, budget="75%", time_limit=5)
    assert plan.copies or len(plan.runs) > plan.model.layers
    feeds = random_batch(model)
    plain = UnplannedStep(import_model(portable))
    with planc.load(plan, path) as step:
        beside = UnplannedStep(step.imported)
        for _ in range(3):
            ours, theirs, others = step(feeds), beside(feeds), plain(feeds)
            for made, value in ours.items():
                np.testing.assert_array_equal(value, theirs[made])
            expected = float(others[loss_name(portable)])
            assert float(ours[loss_name(model)]) == pytest.approx(expected, rel=1e-4)
        state = step.state()
        for key, value in beside.state.items():
            np.testing.assert_array_equal(value, state[key])
