"""What planc must know of an operator besides its shape: views, in-place safety, randomness, refusal."""

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose output is the first input's bytes under another shape. They are never executed: consumers bind the
storage with their own shape."""

PIECES = frozenset({"Split", "Slice", "Gather"})
"""Operators whose outputs may be contiguous pieces of the first input: views too, where the importer finds them to be."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators that draw from a generator: they run exactly once a step. Dropout in training mode is one more."""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

IN_PLACE_UNARY = frozenset(
    {
        "Relu", "Neg", "Exp", "Sqrt", "Reciprocal", "Tanh", "Erf", "Sigmoid", "Log", "Abs", "Clip", "Sign",
        "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "Floor", "Ceil", "Round", "Sin", "Cos",
    }
)  # fmt: skip
"""Element-wise operators of one tensor, of the standard domain: the output may take the input's bytes.

On the CPU ONNX Runtime's kernels read each element before writing it. On CUDA a thread reads the elements that it is to
write, and no others, before it writes the first. Tests check both, operator by operator: those of the CPU run
everywhere, those of CUDA where there is a card. Other domains have kernels of their own and are never run in place.
Transpose is not here: in place it corrupts."""

IN_PLACE_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})
"""The same for either operand that has the output's shape."""


def is_random(op_type: str, domain: str, training: bool) -> bool:
    """Whether two executions of the operator may differ; `training` says whether a Dropout drops."""
    return domain in ("", "ai.onnx") and (op_type in RANDOM or (op_type == "Dropout" and training))
