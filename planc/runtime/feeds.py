"""What a caller hands to a step, checked before anything of the step is touched."""

from collections.abc import Mapping, Sequence

import numpy as np

from planc.errors import FeedError
from planc.graph.graph import Graph, Tensor
from planc.runtime.device import Device, SharesArrays
from planc.runtime.dlpack import DeviceArray

Value = np.ndarray | DeviceArray

_FLOATS = ("float", "bfloat", "complex")
"""How names of types begin that can be not a number."""


def checked_feeds(
    device: Device, graph: Graph, tensors: Sequence[Tensor], feeds: Mapping[str, object]
) -> list[tuple[Tensor, Value]]:
    """Every batch input, the `tensors`, with its value in the machine's byte order.

    Raises FeedError naming an input that is missing, unknown, of another shape or type, outside of the range that the
    model gives it (a label that is no class), or not a number. Infinities pass: masks are made of them.
    """
    names = [tensor.name for tensor in tensors]
    takes = ", ".join(names) or "no inputs"
    for name in names:
        if name not in feeds:
            raise FeedError(f"input {name!r} is missing: the step needs {takes}")
    for name in feeds:
        if name not in names:
            raise FeedError(f"unknown input {name!r}: the step takes {takes}")
    found = [(tensor, checked(device, tensor, feeds[tensor.name])) for tensor in tensors]
    for tensor, value in found:
        _check_values(device, graph, tensor, value)
    return found


def checked(device: Device, tensor: Tensor, value: object) -> Value:
    """The array behind `value`, in the machine's byte order. Raises FeedError when the tensor cannot be that."""
    array = _array(device, tensor.name, value)
    if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
        raise FeedError(
            f"{tensor.name!r} has shape {list(array.shape)} of {array.dtype.name}, "
            f"the model takes {list(tensor.shape)} of {tensor.dtype}{_partial(array.shape, tensor.shape)}"
        )
    return array


def _partial(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What to do about a batch that is only smaller than the one that was planned for."""
    if len(given) == len(wanted) and given[1:] == wanted[1:] and given[:1] < wanted[:1]:
        return ": a smaller batch; leave the last one of an epoch out, or fill it up"
    return ""


def _array(device: Device, name: str, value: object) -> Value:
    shared = device.accept(name, value) if isinstance(device, SharesArrays) else None
    if shared is not None:
        return shared
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise FeedError(f"{name!r} is a masked array with masked values: fill them")
    try:
        array = np.asarray(value)
    except Exception as error:  # any library's array may refuse in its own way, as one that lives elsewhere does
        raise FeedError(f"{name!r} cannot be read as an array ({error})") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_values(device: Device, graph: Graph, tensor: Tensor, value: Value) -> None:
    """Raise FeedError for values that no step can be right with. Floats on a card are not looked at: it would wait."""
    kind = value.dtype.kind
    if kind in "iu" and tensor.name in graph.input_ranges:
        numbers = device.read(value) if isinstance(value, DeviceArray) and isinstance(device, SharesArrays) else value
        _check_range(tensor.name, np.asarray(numbers), *graph.input_ranges[tensor.name], graph.ignored.get(tensor.name))
    elif value.dtype.name.startswith(_FLOATS) and isinstance(value, np.ndarray) and np.isnan(value).any():
        at = [int(i) for i in np.argwhere(np.isnan(value))[0]]
        raise FeedError(f"input {tensor.name!r} is not a number at {at}: one such value makes all parameters so")


def _check_range(name: str, numbers: np.ndarray, low: int, high: int, ignored: int | None) -> None:
    if not numbers.size or (low <= numbers.min() and numbers.max() < high):
        return
    wrong = ((numbers < low) | (numbers >= high)) & (numbers != ignored)
    if wrong.any():
        at = [int(i) for i in np.argwhere(wrong)[0]]
        also = "" if ignored is None else f", or {ignored} to be ignored"
        classes = f"{low} to {high - 1} ({high - low} classes)"
        raise FeedError(f"input {name!r} is {numbers[tuple(at)]} at {at}, the model takes {classes}{also}")
