"""A small layer-by-layer builder of forward ONNX models, shared by the network families.

Every method adds one framework-level layer: its parameters with their initial values, and its nodes, annotated with
the layer's name and kind. Initial values are drawn from one seeded generator, so a network is reproducible; they are
drawn last, so that a network can be looked at without them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.errors import UsageError
from planc.graph.annotations import IR_VERSION, annotate_node

OPSET = 20


@dataclass(frozen=True)
class Output:
    """An activation: its name and shape, batch first."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Normal:
    """Initial values to be drawn from a normal distribution of mean zero."""

    shape: tuple[int, ...]
    deviation: float

    def drawn(self, name: str, random: np.random.Generator) -> TensorProto:
        values = random.standard_normal(self.shape, np.float32)
        return numpy_helper.from_array(values * np.float32(self.deviation), name)

    def undrawn(self, name: str) -> TensorProto:
        """The tensor's name, shape and type, without data."""
        return TensorProto(name=name, dims=self.shape, data_type=TensorProto.FLOAT)


Initial = TensorProto | Normal


@dataclass(frozen=True)
class Blueprint:
    """A whole network whose random initial values are still to be drawn; `shell` lacks all initializers."""

    shell: onnx.ModelProto
    initializers: Mapping[str, Initial]
    parameters: tuple[str, ...]
    seed: int

    def model(self, values: bool) -> onnx.ModelProto:
        """The forward model; without `values`, what would be drawn at random has a shape and no data."""
        random = np.random.default_rng(self.seed)
        model = onnx.ModelProto()
        model.CopyFrom(self.shell)
        for name, initial in self.initializers.items():
            if isinstance(initial, Normal):
                initial = initial.drawn(name, random) if values else initial.undrawn(name)
            model.graph.initializer.append(initial)
        return model


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """One number for both spatial axes, or (vertical, horizontal)."""
    if isinstance(value, int):
        return value, value
    vertical, horizontal = value
    return vertical, horizontal


class Network:
    """Collects nodes and initializers; `finish` returns them as a blueprint."""

    def __init__(self, name: str, seed: int, opset: int = OPSET) -> None:
        self.name = name
        self.seed = seed
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, Initial] = {}
        self.parameters: dict[str, None] = {}

    # --- plumbing

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> Output:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return Output(name, tuple(shape))

    def initializer(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a tensor that is not trained under `name`, once."""
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def parameter(self, name: str, initial: Normal | npt.NDArray[Any]) -> str:
        """Add a trained tensor under `name`, once."""
        self.parameters[name] = None
        tensor = initial if isinstance(initial, Normal) else numpy_helper.from_array(initial, name)
        self.initializers.setdefault(name, tensor)
        return name

    def zeros(self, name: str, *shape: int) -> str:
        return self.parameter(name, np.zeros(shape, np.float32))

    def ones(self, name: str, *shape: int) -> str:
        return self.parameter(name, np.ones(shape, np.float32))

    def normal(self, name: str, shape: Sequence[int], deviation: float) -> str:
        return self.parameter(name, Normal(tuple(shape), deviation))

    def ints(self, *numbers: int) -> str:
        return self.initializer("ints_" + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def scalar(self, number: float) -> str:
        return self.initializer(f"scalar_{number!r}", np.array(number, np.float32))

    def node(
        self, op_type: str, inputs: Sequence[Output | str], shape: Sequence[int], layer: str, kind: str,
        extra_outputs: Sequence[str] = (), **attributes: Any,
    ) -> Output:  # fmt: skip
        """Add one node to `layer`; its first output is returned, with the stated shape."""
        serial = sum(1 for n in reversed(self.nodes[-64:]) if n.name == layer or n.name.startswith(f"{layer}/"))
        name = layer if serial == 0 else f"{layer}/{serial}"
        names = [i.name if isinstance(i, Output) else i for i in inputs]
        made = helper.make_node(op_type, names, [name, *extra_outputs], name=name, **attributes)
        annotate_node(made, layer, kind, "forward")
        self.nodes.append(made)
        return Output(name, tuple(shape))

    def finish(self, output: Output) -> Blueprint:
        """The network with `output` as its only output."""
        graph = helper.make_graph(
            self.nodes, self.name, self.inputs,
            [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, list(output.shape))],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset)]
        shell = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="planc zoo")
        return Blueprint(shell, self.initializers, tuple(self.parameters), self.seed)

    # --- layers

    def conv(
        self, x: Output, layer: str, channels: int, kernel: int | Sequence[int], *, stride: int = 1,
        padding: int | Sequence[int] = 0, group: int = 1, bias: bool = False,
    ) -> Output:  # fmt: skip
        """Convolution of [N, C, H, W], He initialisation over the fan-in (He et al., 2015), zero bias."""
        (kh, kw), (ph, pw) = pair(kernel), pair(padding)
        deviation = math.sqrt(2 * group / (x.shape[1] * kh * kw))
        weight = self.normal(f"{layer}.weight", (channels, x.shape[1] // group, kh, kw), deviation)
        inputs: list[Output | str] = [x, weight]
        if bias:
            inputs.append(self.zeros(f"{layer}.bias", channels))
        size = (self._windows(x, 2, layer, kh, stride, ph), self._windows(x, 3, layer, kw, stride, pw))
        return self.node(
            "Conv", inputs, (x.shape[0], channels, *size), layer, "conv",
            kernel_shape=[kh, kw], strides=[stride] * 2, pads=[ph, pw, ph, pw], group=group,
        )  # fmt: skip

    def batch_norm(self, x: Output, layer: str, scale: float = 1.0) -> Output:
        """Training-mode batch normalisation with running statistics (momentum 0.9, as the literature's networks)."""
        channels = x.shape[1]
        parameters = [
            self.parameter(f"{layer}.weight", np.full(channels, scale, np.float32)),
            self.zeros(f"{layer}.bias", channels),
            self.initializer(f"{layer}.running_mean", np.zeros(channels, np.float32)),
            self.initializer(f"{layer}.running_var", np.ones(channels, np.float32)),
        ]
        running = [f"{layer}.running_mean.next", f"{layer}.running_var.next"]
        return self.node(
            "BatchNormalization", [x, *parameters], x.shape, layer, "batch-norm", running,
            training_mode=1, momentum=0.9, epsilon=1e-5,
        )  # fmt: skip

    def relu(self, x: Output, layer: str) -> Output:
        return self.node("Relu", [x], x.shape, layer, "relu")

    def add(self, x: Output, y: Output | str, layer: str) -> Output:
        return self.node("Add", [x, y], x.shape, layer, "add")

    def max_pool(self, x: Output, layer: str, kernel: int, stride: int, padding: int = 0, ceil: bool = False) -> Output:
        size = [self._windows(x, axis, layer, kernel, stride, padding, ceil) for axis in (2, 3)]
        return self.node(
            "MaxPool", [x], (*x.shape[:2], *size), layer, "max-pool",
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4, ceil_mode=int(ceil),
        )  # fmt: skip

    def average_pool(self, x: Output, layer: str, kernel: int, stride: int, padding: int = 0) -> Output:
        """Mean over the window without its padding."""
        size = [self._windows(x, axis, layer, kernel, stride, padding) for axis in (2, 3)]
        return self.node(
            "AveragePool", [x], (*x.shape[:2], *size), layer, "average-pool",
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4,
        )  # fmt: skip

    def global_pool(self, x: Output, layer: str) -> Output:
        """Mean over the image, [N, C, H, W] to [N, C]."""
        pooled = self.node("GlobalAveragePool", [x], (*x.shape[:2], 1, 1), layer, "global-average-pool")
        return self.node("Flatten", [pooled], x.shape[:2], layer, "global-average-pool")

    def flatten(self, x: Output, layer: str) -> Output:
        """[N, ...] to [N, D]."""
        return self.node("Flatten", [x], (x.shape[0], math.prod(x.shape[1:])), layer, "flatten")

    def concat(self, parts: Sequence[Output], layer: str) -> Output:
        """Concatenation along the channels."""
        first = parts[0].shape
        shape = (first[0], sum(part.shape[1] for part in parts), *first[2:])
        return self.node("Concat", parts, shape, layer, "concat", axis=1)

    def dropout(self, x: Output, layer: str, ratio: float) -> Output:
        """Dropout in training mode; its seed follows from the network's and the layer's place."""
        inputs: list[Output | str] = [x, self.scalar(ratio), self.initializer("training", np.array(True))]
        seed = int(np.random.default_rng([self.seed, len(self.nodes)]).integers(1 << 31))
        return self.node("Dropout", inputs, x.shape, layer, "dropout", seed=seed)

    def local_response_norm(self, x: Output, layer: str) -> Output:
        """Over five channels, with the constants of Krizhevsky et al., 2012, section 3.3."""
        return self.node(
            "LRN", [x], x.shape, layer, "local-response-norm", size=5, alpha=1e-4, beta=0.75, bias=2.0
        )  # fmt: skip

    def relu6(self, x: Output, layer: str) -> Output:
        return self.node("Clip", [x, self.scalar(0.0), self.scalar(6.0)], x.shape, layer, "relu6")

    def conv_transpose(self, x: Output, layer: str, channels: int, kernel: int, stride: int) -> Output:
        """Transposed convolution without padding, with bias."""
        deviation = math.sqrt(2 / (channels * kernel * kernel))
        weight = self.normal(f"{layer}.weight", (x.shape[1], channels, kernel, kernel), deviation)
        size = [(d - 1) * stride + kernel for d in x.shape[2:]]
        return self.node(
            "ConvTranspose", [x, weight, self.zeros(f"{layer}.bias", channels)], (x.shape[0], channels, *size), layer,
            "conv-transpose", kernel_shape=[kernel] * 2, strides=[stride] * 2,
        )  # fmt: skip

    def upsample(self, x: Output, layer: str, factor: int) -> Output:
        """Bilinear interpolation by a whole factor, half-pixel centres."""
        scales = self.initializer(f"scales_{factor}", np.array([1, 1, factor, factor], np.float32))
        size = [d * factor for d in x.shape[2:]]
        inputs: list[Output | str] = [x, "", scales]
        return self.node("Resize", inputs, (*x.shape[:2], *size), layer, "upsample", mode="linear")

    def linear(self, x: Output, layer: str, features: int, deviation: float | None = None, bias: bool = True) -> Output:
        """Dense layer on [R, D]; weight [features, D] with deviation 1/sqrt(D) unless given, zero bias."""
        width = x.shape[1]
        spread = 1 / math.sqrt(width) if deviation is None else deviation
        inputs: list[Output | str] = [x, self.normal(f"{layer}.weight", (features, width), spread)]
        if bias:
            inputs.append(self.zeros(f"{layer}.bias", features))
        return self.node("Gemm", inputs, (x.shape[0], features), layer, "linear", transB=1)

    def layer_norm(self, x: Output, layer: str, epsilon: float = 1e-5) -> Output:
        width = x.shape[-1]
        parameters = [self.ones(f"{layer}.weight", width), self.zeros(f"{layer}.bias", width)]
        return self.node("LayerNormalization", [x, *parameters], x.shape, layer, "layer-norm", axis=-1, epsilon=epsilon)

    def gelu(self, x: Output, layer: str, approximate: str = "none") -> Output:
        return self.node("Gelu", [x], x.shape, layer, "gelu", approximate=approximate)

    def reshape(self, x: Output, shape: Sequence[int], layer: str, kind: str) -> Output:
        return self.node("Reshape", [x, self.ints(*shape)], shape, layer, kind)

    def transpose(self, x: Output, perm: Sequence[int], layer: str, kind: str) -> Output:
        return self.node("Transpose", [x], [x.shape[axis] for axis in perm], layer, kind, perm=list(perm))

    def _windows(
        self, x: Output, axis: int, layer: str, kernel: int, stride: int, padding: int, ceil: bool = False
    ) -> int:  # fmt: skip
        """How many windows fit along `axis`. Raises UsageError when none does: the image is too small."""
        span = x.shape[axis] + 2 * padding - kernel
        if span < 0:
            raise UsageError(f"{self.name}: the image is too small for layer {layer}; give a larger --image")
        return (-(-span // stride) if ceil else span // stride) + 1
