"""Layers of a traced module: the calls of its submodules, and the runs of operators between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

CONTAINED = "torch.nn.modules."
"""Modules of this package are one layer each, whatever operators they run; containers run none of their own."""


@dataclass(frozen=True)
class ModuleLayer:
    """A framework-level layer: its unique name and what it is."""

    name: str
    kind: str


_KINDS = {
    "Conv": "conv",
    "ConvTranspose": "conv-transpose",
    "BatchNorm": "batch-norm",
    "MaxPool": "max-pool",
    "AvgPool": "average-pool",
    "AdaptiveAvgPool": "average-pool",
    "ReLU": "relu",
    "ReLU6": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Linear": "linear",
    "LayerNorm": "layer-norm",
    "GroupNorm": "group-norm",
    "Embedding": "embedding",
    "CrossEntropyLoss": "cross-entropy",
    "MSELoss": "mse",
    "MultiheadAttention": "attention",
}
"""Class names of torch.nn, less a trailing 1d, 2d or 3d, by layer kind; others take their operator's name."""

_OPERATOR_KINDS = {
    "scaled_dot_product_attention": "attention",
    "softmax": "attention",
    "cross_entropy": "cross-entropy",
    "cross_entropy_loss": "cross-entropy",
    "nll_loss_nd": "cross-entropy",
    "mse_loss": "mse",
    "conv2d": "conv",
    "conv1d": "conv",
    "conv_transpose2d": "conv-transpose",
    "batch_norm": "batch-norm",
    "layer_norm": "layer-norm",
    "group_norm": "group-norm",
    "max_pool2d": "max-pool",
    "avg_pool2d": "average-pool",
    "adaptive_avg_pool2d": "average-pool",
    "upsample_bilinear2d": "resize",
    "upsample_nearest2d": "resize",
    "cat": "concat",
    "relu_": "relu",
    "add_": "add",
}

_TRIVIAL = frozenset(
    {"view", "reshape", "flatten", "transpose", "permute", "t", "expand", "squeeze", "unsqueeze", "split", "chunk"}
    | {"slice", "select", "unbind", "contiguous", "alias", "detach_", "detach", "lift_fresh_copy", "getitem", "to"}
)
"""Operators that do not name a run of operators if there is another."""


@dataclass(frozen=True)
class Event:
    """One torch function that ran: the path and class of the module that called it, its name, and the line of code."""

    path: str
    owner: str
    operator: str
    source: str


def layers_of(events: Sequence[Event], computing: Sequence[int]) -> Mapping[int, ModuleLayer]:
    """The layer of each computing event, given by number, in order.

    A call of a `torch.nn` module is a layer of the module's name; operators that other modules run themselves form a
    layer per uninterrupted run, named after the module and the run's main operator. A name met again gets a serial.
    """
    found: dict[int, ModuleLayer] = {}
    serial: dict[str, int] = {}
    for (path, owner), run in groupby(computing, key=lambda number: _innermost(events[number])):
        members = list(run)
        main = _main_operator([events[number].operator for number in members])
        contained = owner.startswith(CONTAINED) and "." not in owner.removeprefix(CONTAINED).partition(".")[2]
        parts = path.split(".") if path else []
        kind = (contained and _KINDS.get(_plain(owner))) or _OPERATOR_KINDS.get(main, main.strip("_").replace("_", "-"))
        name = ".".join(parts if contained and parts else [*parts, kind])
        serial[name] = serial.get(name, 0) + 1
        layer = ModuleLayer(name if serial[name] == 1 else f"{name}#{serial[name]}", kind)
        found.update(dict.fromkeys(members, layer))
    return found


def _innermost(event: Event) -> tuple[str, str]:
    """(path, class) of the module that ran an event; the loss is the wrapper's own run."""
    if event.path in ("", "loss"):
        return "loss", CONTAINED + "loss.Loss" if event.path == "" else event.owner
    return event.path.removeprefix("model").removeprefix("."), event.owner


def _plain(owner: str) -> str:
    name = owner.rpartition(".")[2]
    return name[:-2] if name.endswith(("1d", "2d", "3d")) else name


def _main_operator(names: Sequence[str]) -> str:
    """The operator that says best what a run computes."""
    telling = [name for name in names if name not in _TRIVIAL] or names
    return next((name for name in telling if name in _OPERATOR_KINDS), telling[0])
