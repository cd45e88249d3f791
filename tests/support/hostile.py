"""Models made to harm: bombs, absurd attributes, names and places that lead elsewhere. Each is small and quickly made.

`HOSTILE` has for every name a function that gives the model; `LIMITS` is what any command may take of it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph import annotations

N = helper.make_node
Maker = Callable[[], onnx.ModelProto]
HOSTILE: dict[str, Maker] = {}

SECONDS, BYTES = 5, 1 << 30
"""A command may take so long, and so much memory beyond what an idle one has."""


def model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Any] = (4, 4), initial: Mapping[str, Any] | None = None,
    functions: Sequence[onnx.FunctionProto] = (), opset: int = 18,
) -> onnx.ModelProto:  # fmt: skip
    """A step that reads `x` and the state `w`, and whose nodes make `y`, of any shape."""
    rest = [N("ReduceSum", ["y"], ["loss"], keepdims=0), N("Mul", ["w", "loss"], ["w2"])]
    values = {"w": np.ones((4, 4), np.float32), **(initial or {})}
    graph = helper.make_graph(
        [*nodes, *rest],
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape)),
         helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("loss", TensorProto.FLOAT, []),
         helper.make_tensor_value_info("w2", TensorProto.FLOAT, [4, 4])],
        [v if isinstance(v, TensorProto) else numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid("f", 1)] * bool(functions)
    made = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    annotations.write_model(made, {annotations.STATE: json.dumps({"w": "w2"}), annotations.LOSS: "loss"})
    return made


def hostile(name: str) -> Callable[[Maker], Maker]:
    """Registers a maker under `name`."""

    def register(make: Maker) -> Maker:
        HOSTILE[name] = make
        return make

    return register


def _one(name: str, *nodes: onnx.NodeProto, shape: Sequence[Any] = (4, 4), opset: int = 18, **initial: Any) -> None:
    HOSTILE[name] = lambda: model(nodes, shape, initial, opset=opset)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


for _break in "\n\r":
    _one(f"a node's name with {_break!r}", N("Identity", ["x"], ["y"], name=f"a{_break}planc: all is well"))
    _one(
        f"a tensor's name with {_break!r}", N("Identity", ["x"], [f"t{_break}t"]), N("Identity", [f"t{_break}t"], ["y"])
    )
_zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
for _size in (1 << 31, 1 << 40, (1 << 62), (1 << 63) - 1, -1):
    _one(f"ConstantOfShape {_size}", N("ConstantOfShape", ["n"], ["y"], value=_zero), n=ints(_size))
    _one(f"Expand {_size}", N("Expand", ["c", "n"], ["y"]), n=ints(_size), c=np.float32([0]))
    _one(f"Tile {_size}", N("Tile", ["c", "n"], ["y"]), n=ints(_size), c=np.float32([0]))
    _one(f"Range {_size}", N("Range", ["a", "b", "d"], ["r"]), N("Cast", ["r"], ["y"], to=1),
         a=np.int64(0), b=np.int64(_size), d=np.int64(1))  # fmt: skip
    _one(f"Pad {_size}", N("Pad", ["c", "n"], ["y"]), n=ints(0, _size), c=np.float32([0]))
    _one(f"Pad of a batch {_size}", N("Pad", ["x", "n"], ["y"]), n=ints(0, 0, 0, _size))
    _one(f"Reshape {_size}", N("Reshape", ["x", "n"], ["y"]), n=ints(_size, 1))
    _one(f"Resize {_size}", N("Resize", ["v", "", "", "n"], ["y"]), v=np.ones((1, 1, 2, 2), np.float32),
         n=ints(1, 1, _size, 2))  # fmt: skip
    _one(f"OneHot {_size}", N("OneHot", ["i", "n", "v"], ["y"]), i=ints(1, 2), n=np.int64(_size), v=np.float32([0, 1]))
    _one(f"Slice {_size}", N("Slice", ["x", "a", "b", "c", "d"], ["y"]), a=ints(-_size), b=ints(_size), c=ints(0),
         d=ints(_size))  # fmt: skip
    _one(f"Gather {_size}", N("Gather", ["x", "n"], ["y"]), n=ints(_size))
    _one(f"input of {_size}", N("Relu", ["x"], ["y"]), shape=(_size,))
    _one(f"input of {_size} squared", N("Relu", ["x"], ["y"]), shape=(_size, _size))
    _one(
        f"EyeLike {_size}",
        N("ConstantOfShape", ["n"], ["e"], value=_zero),
        N("EyeLike", ["e"], ["y"]),
        n=ints(_size, 2),
    )
_one("Range step 0", N("Range", ["a", "b", "d"], ["r"]), N("Cast", ["r"], ["y"], to=1), a=np.int64(0), b=np.int64(9),
     d=np.int64(0))  # fmt: skip
_one("Range of a float step 0", N("Range", ["a", "b", "d"], ["y"]), a=np.float32(0), b=np.float32(9), d=np.float32(0))
_one("Range to infinity", N("Range", ["a", "b", "d"], ["y"]), a=np.float32(0), b=np.float32("inf"), d=np.float32(1))
_one("Range to nan", N("Range", ["a", "b", "d"], ["y"]), a=np.float32(0), b=np.float32("nan"), d=np.float32(1))
_image, _filter = np.ones((1, 4, 8, 8), np.float32), np.ones((4, 4, 3, 3), np.float32)
for _name, _attributes in {
    "group 0": {"group": 0}, "group -1": {"group": -1}, "group 3": {"group": 3}, "group 2**40": {"group": 1 << 40},
    "strides 0": {"strides": [0, 0]}, "strides -1": {"strides": [-1, -1]}, "dilations 0": {"dilations": [0, 0]},
    "huge pads": {"pads": [1 << 40] * 4}, "overflowing pads": {"pads": [(1 << 63) - 1] * 4},
    "negative pads": {"pads": [-9] * 4}, "three pads": {"pads": [1, 1, 1]}, "one stride": {"strides": [1]},
    "another kernel": {"kernel_shape": [5, 5]}, "unknown auto_pad": {"auto_pad": "ALL"}, "huge dilations":
    {"dilations": [1 << 62, 1 << 62]}, "huge strides": {"strides": [1 << 62, 1 << 62]},
}.items():  # fmt: skip
    for _op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"):
        if _op.startswith("Conv"):
            _one(f"{_op} {_name}", N(_op, ["v", "k"], ["y"], **_attributes), v=_image, k=_filter)
        elif not _name.startswith("group"):
            _one(f"{_op} {_name}", N(_op, ["v"], ["y"], **{"kernel_shape": [3, 3], **_attributes}), v=_image)
for _kernel in ([0, 0], [-1, -1], [1 << 40, 1 << 40], [(1 << 63) - 1] * 2, [3], [9, 9]):
    for _op in ("MaxPool", "AveragePool", "LpPool"):
        for _ceil in (0, 1):
            _one(f"{_op} kernel {_kernel} ceil {_ceil}",
                 N(_op, ["v"], ["y"], kernel_shape=_kernel, ceil_mode=_ceil), v=_image)  # fmt: skip
for _op, _attributes in {
    "Split": {"num_outputs": 1 << 40}, "Concat": {"axis": 99}, "Transpose": {"perm": [0, 0]}, "Flatten": {"axis": -99},
    "Softmax": {"axis": 1 << 40}, "Gemm": {"transA": 99}, "Cast": {"to": 99}, "Einsum": {"equation": "ij,jk,kl->"},
    "DepthToSpace": {"blocksize": 0}, "SpaceToDepth": {"blocksize": 0}, "LRN": {"size": 0}, "Shrink": {"bias": 1.0},
    "Mod": {"fmod": 7}, "TopK": {"axis": 9}, "Trilu": {"upper": 9}, "CumSum": {"reverse": 5},
    "InstanceNormalization": {"epsilon": 0.0}, "LayerNormalization": {"axis": 12}, "Dropout": {"seed": 1},
    "ReduceSum": {"noop_with_empty_axes": 7}, "LSTM": {"hidden_size": 1 << 40}, "GRU": {"hidden_size": -1},
    "RandomNormal": {"shape": [1 << 40]}, "RandomUniform": {"shape": [-1]}, "Multinomial": {"sample_size": 1 << 40},
    "Bernoulli": {"dtype": 99}, "HammingWindow": {"periodic": 0}, "NonZero": {}, "Unique": {}, "Compress": {},
    "StringNormalizer": {}, "Loop": {}, "If": {}, "Scan": {}, "SequenceEmpty": {}, "Nonsense": {}, "Identity": {"a": 1},
    "Constant": {}, "Squeeze": {}, "Unsqueeze": {}, "Where": {}, "MatMul": {}, "Add": {}, "GridSample": {}, "Col2Im": {},
    "BatchNormalization": {"training_mode": 1}, "GlobalAveragePool": {}, "MaxUnpool": {"kernel_shape": [2]},
}.items():  # fmt: skip
    for _inputs in (["x"], ["x", "w"], ["x", "x", "x"], [""], []):
        _one(f"{_op} of {_inputs}", N(_op, _inputs, ["y"], **_attributes))
for _count in (10, 26):
    _letters = "abcdefghijklmnopqrstuvwxyz"[:_count]
    _one(f"Einsum of {_count} axes", N("Einsum", ["c"] * _count, ["y"], equation=f"{','.join(_letters)}->{_letters}"),
         c=np.ones(8, np.float32))  # fmt: skip


@hostile("MatMul chain of constants")
def _() -> onnx.ModelProto:
    big = np.ones((3000, 3000), np.float16).astype(np.float32)
    nodes = [N("MatMul", ["c", "c"], ["t0"])] + [N("MatMul", [f"t{i}", "c"], [f"t{i + 1}"]) for i in range(30)]
    return model([*nodes, N("Identity", ["t30"], ["y"])], initial={"c": big})


@hostile("constants that double")
def _() -> onnx.ModelProto:
    nodes = [N("Concat", ["c", "c"], ["t0"], axis=0)]
    nodes += [N("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}"], axis=0) for i in range(45)]
    return model([*nodes, N("Identity", ["t45"], ["y"])], initial={"c": np.float32([1])})


@hostile("batch that doubles")
def _() -> onnx.ModelProto:
    nodes = [N("Concat", ["x", "x"], ["t0"], axis=0)]
    nodes += [N("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}"], axis=0) for i in range(70)]
    return model([*nodes, N("Identity", ["t70"], ["y"])])


def _nested(depth: int, last: str) -> list[onnx.FunctionProto]:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    made = []
    for level in range(depth):
        inner = f"F{level + 1}" if level + 1 < depth else last
        domain = "" if inner == "Relu" else "f"
        nodes = [N(inner, ["a"], ["b"], domain=domain), N(inner, ["b"], ["c"], domain=domain)]
        made.append(helper.make_function("f", f"F{level}", ["a"], ["c"], nodes, imports))
    return made


@hostile("functions that double 2**39 times")
def _() -> onnx.ModelProto:
    return model([N("F0", ["x"], ["y"], domain="f")], functions=_nested(39, "Relu"))


@hostile("functions that call themselves")
def _() -> onnx.ModelProto:
    return model([N("F0", ["x"], ["y"], domain="f")], functions=_nested(3, "F0"))


@hostile("many long names")
def _() -> onnx.ModelProto:
    return model([N("Relu", ["x"], ["y"], name="n" * 5_000_000)])


@hostile("flat tensor of 2**24")
def _() -> onnx.ModelProto:
    return model([N("Mul", ["x", "x"], ["z"]), N("Sin", ["z"], ["y"])], shape=(1 << 24,))


@hostile("computed shape beside a flat tensor of 2**24")
def _() -> onnx.ModelProto:
    nodes = [N("Mul", ["x", "x"], ["z"]), N("Shape", ["z"], ["s"]), N("Div", ["s", "two"], ["h"]),
             N("Concat", ["h", "d"], ["n"], axis=0), N("Reshape", ["z", "n"], ["y"])]  # fmt: skip
    return model(nodes, shape=(1 << 24,), initial={"two": ints(2), "d": ints(2)})


@hostile("sparse Constant")
def _() -> onnx.ModelProto:
    values, indices = numpy_helper.from_array(np.float32([1]), "v"), numpy_helper.from_array(ints(1), "i")
    sparse = helper.make_sparse_tensor(values, indices, [1 << 40])
    return model([N("Constant", [], ["y"], sparse_value=sparse)])


@hostile("Constants without or with several values")
def _() -> onnx.ModelProto:
    return model([N("Constant", [], ["z"], value_float=1.0, value_int=2), N("Relu", ["z"], ["y"])])


@hostile("Constant of strings")
def _() -> onnx.ModelProto:
    return model([N("Constant", [], ["z"], value_strings=["a", "b"]), N("Relu", ["x"], ["y"])])


def _external(location: str, in_node: bool, **more: str) -> onnx.ModelProto:
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    if in_node:
        return model([N("Constant", [], ["c"], value=tensor), N("Add", ["x", "c"], ["y"])])
    return model([N("Add", ["x", "c"], ["y"])], initial={"c": tensor})


for _place, _more in {
    "/etc/passwd": {}, "../secret": {}, "a/../../secret": {}, "": {}, ".": {}, "n" * 5000: {}, "a\0b": {}, "/dev/zero": {},
    "missing": {}, "pipe": {}, "out/passwd": {}, "data": {"offset": "-1"}, "data ": {"offset": "9" * 30},
    "data  ": {"length": "-1"}, "data   ": {"offset": "x"}, "data    ": {"length": "1e9"}, "data     ": {"checksum": "0"},
}.items():  # fmt: skip
    for _inside in (False, True):
        HOSTILE[f"data at {_place[:20]!r} {_more} {'Constant' if _inside else 'initializer'}"] = (
            lambda place=_place, inside=_inside, more=_more: _external(place.strip(" "), inside, **more)
        )


@hostile("state that is its own next value and another's")
def _() -> onnx.ModelProto:
    made = model([N("Relu", ["x"], ["y"])])
    annotations.write_model(made, {annotations.STATE: json.dumps({"w": "loss", "x": "w2"})})
    return made


def _with_metadata(where: str, text: str) -> Maker:
    def make() -> onnx.ModelProto:
        made = model([N("Relu", ["x"], ["y"])])
        annotations.write_model(made, {where: text})
        return made

    return make


for _key, _text in {
    "deep": "[" * 100_000, "huge": '{"w": ' + "9" * 5000 + "}", "list": "[1]", "null": "null", "nan": '{"w": NaN}',
    "numbers": '{"1": 2}', "ranges": '{"x": [1e999, 2]}', "twice": '{"w": "w2", "w": "loss"}', "not text": "\x00",
}.items():  # fmt: skip
    for _where in (annotations.STATE, annotations.INPUT_RANGES, annotations.LOSS):
        HOSTILE[f"metadata {_where} {_key}"] = _with_metadata(_where, _text)
for _key, _text in {
    "lists": '{"x": [["x"]]}', "objects": '{"x": [{}]}', "none": '{"x": []}', "state": '{"x": ["w"]}',
    "given": '{"lr": ["x"]}', "twice": '{"x": ["x", "x"]}',
}.items():  # fmt: skip
    for _where in (annotations.HYPERPARAMETERS, annotations.MICRO_BATCHES, annotations.IGNORED, annotations.SHARDS):
        HOSTILE[f"metadata {_where} {_key}"] = _with_metadata(_where, _text)
for _evil in ("\x1b]0;owned\x07", "[/bold]", "\u202egnp", "a\nplanc: all is well", "\x00", "/", "..", "%s%n", "{0}"):
    _one(f"names with {_evil!r}", N("Relu", ["x"], [_evil], name=_evil), N("Nope", [_evil], ["y"], name=_evil))
    _one(f"layer names with {_evil!r}", N("Relu", ["x"], [f"t{_evil}"], name=_evil), N("Tanh", [f"t{_evil}"], ["y"]))
