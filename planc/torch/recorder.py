"""Notes, while a module runs, which layer each traced operator belongs to, in the forward and the backward pass."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from planc.errors import ModelError
from planc.torch.layers import Event, ModuleLayer, layers_of

FORWARD, BACKWARD = "forward", "backward"

_LIBRARY = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Recorder(TorchFunctionMode):  # type: ignore[misc]
    """Lists the torch functions that modules call, and where in the traced graph each begins, forward and backward."""

    def __init__(self, root: torch.nn.Module) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._paths = {id(module): name for name, module in root.named_modules()}
        self._stack: list[tuple[str, str]] = []
        self._marks: list[tuple[str | None, int, str]] = []
        self._owned: set[Any] = set()

    def where(self) -> str:
        """The line of code that ran the last function."""
        return self.events[-1].source if self.events else ""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the forward pass of the root module."""
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._enter).remove)
            stack.callback(register_module_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(self)
            yield

    @contextmanager
    def backward(self, loss: torch.Tensor) -> Iterator[None]:
        """The seed of the backward pass belongs to the layer that made the loss."""
        number = max(len(self.events) - 1, 0)
        self._own(loss.grad_fn, number)
        self._mark(number, BACKWARD)
        yield

    def placed(self, graph: torch.fx.Graph) -> dict[torch.fx.Node, tuple[ModuleLayer, str]]:
        """The layer and phase of every computing node of the traced graph, whose `meta["source"]` is set."""
        starts = {name: (number, phase) for name, number, phase in self._marks}
        made: dict[torch.fx.Node, tuple[int, str]] = {}
        current = self._marks[0][1:]
        for node in graph.nodes:
            if node.op == "call_function":
                made[node] = current
                node.meta["source"] = self.events[current[0]].source if self.events else ""
            current = starts.get(node.name, current)
        layers = layers_of(self.events, sorted({number for number, _ in made.values()}))
        return {node: (layers[number], phase) for node, (number, phase) in made.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        number, (path, owner) = len(self.events), self._stack[-1] if self._stack else ("", "")
        self.events.append(Event(path, owner, getattr(func, "__name__", str(func)), _source()))
        _refuse_lost_change(self.events[-1], func, args)
        self._mark(number, FORWARD)
        result = func(*args, **(kwargs or {}))
        for leaf in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                self._own(leaf.grad_fn, number)
        return result

    # --- modules

    def _enter(self, module: torch.nn.Module, _args: Any) -> None:
        outer, owner = self._stack[-1][0] if self._stack else "", type(module)
        self._stack.append((self._paths.get(id(module), outer), f"{owner.__module__}.{owner.__qualname__}"))

    def _leave(self, _module: torch.nn.Module, _args: Any, _result: Any) -> None:
        self._stack.pop()

    # --- places

    def _mark(self, number: int, phase: str) -> None:
        """Nodes that the traced graph gets from here on belong to event `number`."""
        mode = get_proxy_mode()
        last = next(iter(reversed(mode.tracer.graph.nodes)), None) if mode is not None else None
        self._marks.append((last.name if last is not None else None, number, phase))

    def _own(self, function: Any, number: int) -> None:
        """Autograd nodes made since the last event run their backward in the name of event `number`."""
        pending = [function]
        while pending:
            at = pending.pop()
            if at is None or at in self._owned:
                continue
            self._owned.add(at)
            at.register_prehook(lambda _grads: self._mark(number, BACKWARD))
            pending += [following for following, _ in at.next_functions]


def _source() -> str:
    """The innermost line of code outside torch and this package, as file:line."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*_LIBRARY, "<string>")):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _refuse_lost_change(event: Event, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Raises ModelError for a change in place of a tensor that is neither state nor made in the step."""
    if function == torch.Tensor.data.__set__:
        raise ModelError(f"{event.source} assigns to .data, which no graph can follow: write with copy_ under no_grad")
    name = event.operator
    in_place = name == "__setitem__" or (name.startswith("__i") and name != "__invert__" and name != "__index__")
    in_place = in_place or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")
    plain = bool(args) and type(args[0]) is torch.Tensor and not isinstance(args[0], FunctionalTensor)
    if in_place and plain and not torch._C._functorch.is_functorch_wrapped_tensor(args[0]):
        raise ModelError(
            f"{event.source} changes a tensor of shape {list(args[0].shape)} in place that is neither a parameter nor "
            "a buffer: the change would be lost after the step; register it as a buffer"
        )
