"""Times every form of a convolution's gradients on this machine: the figures behind planc/training/emit/forms.py.

    python benchmarks/conv_gradient_forms.py [filter]

Prints, per layer, milliseconds of each weight-gradient form and of the input gradient, the best of several runs.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from planc.training.emit.builder import Builder, Var
from planc.training.rules.convolution import WeightGradient
from planc.training.rules.windows import Window

RUNS = 5


@dataclass(frozen=True)
class Layer:
    name: str
    x: tuple[int, int, int, int]
    out: int
    kernel: int
    stride: int
    padding: int
    group: int = 1


LAYERS = [
    Layer("7x7 s2 3->64 112", (16, 3, 112, 112), 64, 7, 2, 3),
    Layer("11x11 s4 3->96 227", (8, 3, 227, 227), 96, 11, 4, 0),
    Layer("3x3 3->64 112", (8, 3, 112, 112), 64, 3, 1, 1),
    Layer("3x3 64->64 28", (32, 64, 28, 28), 64, 3, 1, 1),
    Layer("3x3 128->128 14", (32, 128, 14, 14), 128, 3, 1, 1),
    Layer("3x3 256->256 7", (32, 256, 7, 7), 256, 3, 1, 1),
    Layer("3x3 512->512 4", (32, 512, 4, 4), 512, 3, 1, 1),
    Layer("3x3 s2 64->128 28", (32, 64, 28, 28), 128, 3, 2, 1),
    Layer("1x1 64->256 28", (16, 64, 28, 28), 256, 1, 1, 0),
    Layer("1x1 256->64 28", (16, 256, 28, 28), 64, 1, 1, 0),
    Layer("1x1 1024->256 7", (16, 1024, 7, 7), 256, 1, 1, 0),
    Layer("1x1 s2 256->512 28", (16, 256, 28, 28), 512, 1, 2, 0),
    Layer("dw 3x3 96 28", (16, 96, 28, 28), 96, 3, 1, 1, 96),
    Layer("dw 3x3 s2 96 28", (16, 96, 28, 28), 96, 3, 2, 1, 96),
    Layer("g2 5x5 96->256 27", (8, 96, 27, 27), 256, 5, 1, 2, 2),
    Layer("16x16 s16 3->768 224", (4, 3, 224, 224), 768, 16, 16, 0),
]


def milliseconds(build: Callable[[Builder, Var, Var], Var], first: Var, second: Var) -> float:
    """The best of several runs of the nodes that `build` emits, two threads, no optimisation."""
    b = Builder(values={v.name: v for v in (first, second)})
    result = build(b, first, second)
    infos = [helper.make_tensor_value_info(v.name, v.dtype, list(v.shape)) for v in (first, second, result)]
    graph = helper.make_graph(b.nodes, "form", infos[:2], infos[2:], list(b.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {v.name: random.standard_normal(v.shape).astype(np.float32) for v in (first, second)}
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def forms(layer: Layer) -> dict[str, float]:
    size = [(d + 2 * layer.padding - layer.kernel) // layer.stride + 1 for d in layer.x[2:]]
    window = Window(*((v, v) for v in (layer.kernel, layer.stride, 1, layer.padding, layer.padding)))
    x, dy = Var("x", layer.x, TensorProto.FLOAT), Var("dy", (layer.x[0], layer.out, *size), TensorProto.FLOAT)
    names = ["conv"] if layer.group > 1 else ["conv", "columns", "rows", "taps"]
    if layer.kernel == 1 and layer.group == 1:
        names = ["conv", "taps", "matmul"]
    if layer.kernel == layer.stride and layer.kernel > 1:
        names.append("patches")
    found = {}
    for name in names:

        def weight(b: Builder, x: Var, dy: Var, name: str = name) -> Var:
            return getattr(WeightGradient(b, x, dy, window, layer.group), name)()

        found[name] = milliseconds(weight, x, dy)
    w = Var("w", (layer.out, layer.x[1] // layer.group, layer.kernel, layer.kernel), TensorProto.FLOAT)
    padding = window.output_padding(layer.x[2:], size)

    def transposed(b: Builder, dy: Var, w: Var) -> Var:
        return b.op("ConvTranspose", [dy, w], x.shape, output_padding=padding, group=layer.group, **window.attributes())

    found["dX"] = milliseconds(transposed, dy, w)
    return found


if __name__ == "__main__":
    for layer in LAYERS:
        if len(sys.argv) < 2 or sys.argv[1] in layer.name:
            print(f"{layer.name:22}", "  ".join(f"{name} {ms:.1f}" for name, ms in forms(layer).items()), flush=True)
