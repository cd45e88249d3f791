"""Norms of windows, planes and axes, whose gradient is 0 where the norm is."""

import math

from planc.training.prepare.bodies.body import Body, Call, body


def _root(made: Body, total: str, p: int) -> str:
    """total ** (1 / p), its gradient 0 where the total is."""
    if p == 1:
        return total
    zero = made.op("Equal", total, made.numbers(0))
    safe = made.op("Where", zero, made.numbers(1), total)
    root = made.op("Sqrt", safe) if p == 2 else made.op("Pow", safe, made.numbers(1 / p))
    return made.op("Where", zero, made.numbers(0), root)


def _powers(made: Body, a: str, p: int) -> str:
    """|a| ** p."""
    if p == 2:
        return made.mul(a, a)
    return made.op("Abs", a) if p == 1 else made.op("Pow", made.op("Abs", a), made.numbers(p))


@body("LpPool")
def lp_pool(call: Call, made: Body) -> str:
    """The average pool of the powers, times the window's size, under the root.

    Raises ModelError for dilated windows, which AveragePool has from opset 19 on only.
    """
    settings, p = dict(call.attributes), int(call.attributes.get("p", 2))
    settings.pop("p", None)
    if any(d != 1 for d in settings.pop("dilations", [])):
        raise call.refuse("a dilated LpPool has no gradient: opset 18 has no dilated average pool")
    pooled = made.op("AveragePool", _powers(made, "x0", p), count_include_pad=1, **settings)
    return _root(made, made.scaled(pooled, math.prod(settings["kernel_shape"])), p)


@body("GlobalLpPool")
def global_lp_pool(call: Call, made: Body) -> str:
    """The norm of every plane."""
    p = int(call.attributes.get("p", 2))
    axes = made.ints(range(2, len(call.shape(0))))
    return _root(made, made.op("ReduceSum", _powers(made, "x0", p), axes), p)


@body("LpNormalization")
def lp_normalization(call: Call, made: Body) -> str:
    """x divided by its norm along an axis; 0 where that is 0, as ONNX Runtime has it."""
    p = int(call.attributes.get("p", 2))
    axes = made.ints([int(call.attributes.get("axis", -1))])
    norm = _root(made, made.op("ReduceSum", _powers(made, "x0", p), axes), p)
    zero = made.op("Equal", norm, made.numbers(0))
    return made.op("Div", "x0", made.op("Where", zero, made.numbers(1), norm))
