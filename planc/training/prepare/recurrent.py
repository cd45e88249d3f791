"""Unrolls LSTM, GRU and RNN operators into one layer of matrix products and gates a time step.

Formulas and gate orders are those of the ONNX operators (Hochreiter and Schmidhuber, 1997; Cho et al., 2014). The
products of all inputs are one MatMul before the steps. A step is a layer of its own, so that a plan can keep or
recompute each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.errors import ModelError
from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.nodes import replace_nodes
from planc.training.emit.builder import Var
from planc.training.registry import attributes_of

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
States = list[str | None]
"""Hidden and cell state, None where it is still zero."""

Step = Callable[[str, States, str, list[str], list[str]], States]
"""(input's part, states, recurrent weight, its bias, peepholes) -> next states."""

_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}


def unroll_recurrent(model: onnx.ModelProto, values: Mapping[str, Var]) -> bool:
    """Replace, in place, every recurrent operator; whether there were any.

    Raises ModelError, naming the node, for a setting that is not supported: lengths per sequence, clipping, other
    activations than the usual ones, coupled gates.
    """
    if not any(node.op_type in GATES for node in model.graph.node):
        return False
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += _Unrolled(node, values, model.graph).nodes() if node.op_type in GATES else [node]
    replace_nodes(model.graph, nodes)
    return True


def _refuse(node: onnx.NodeProto, reason: str) -> None:
    raise ModelError(f"node {node.name!r} ({node.op_type}): {reason} is not supported; unroll the recurrence yourself")


@dataclass
class _Unrolled:
    """One recurrent operator; tensor names carry its first output's."""

    call: onnx.NodeProto
    values: Mapping[str, Var]
    graph: onnx.GraphProto
    made: list[onnx.NodeProto] = field(default_factory=list)
    layer: str = ""

    def __post_init__(self) -> None:
        self.settings = attributes_of(self.call)
        self.prefix = next(o for o in self.call.output if o)
        self.kind = self.call.op_type.lower()
        known = node_annotation(self.call)
        self.title = known[0] if known else self.call.name or self.prefix
        self.x = self.values[self.call.input[0]]
        self.batch_first = bool(self.settings.get("layout", 0))
        self.steps, self.batch = self.x.shape[:2][:: -1 if self.batch_first else 1]
        self.hidden = int(self.settings.get("hidden_size", self.values[self.call.input[2]].shape[-1]))
        self.directions = self.values[self.call.input[1]].shape[0]

    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes in its place."""
        self._check()
        self.layer = f"{self.title}.inputs"
        x = self._op("Transpose", [self.call.input[0]], perm=[1, 0, 2]) if self.batch_first else self.call.input[0]
        directions = [self._direction(x, d) for d in range(self.directions)]
        self.layer = f"{self.title}.outputs"
        self._outputs(directions)
        return self.made

    def _check(self) -> None:
        node, settings = self.call, self.settings
        usual = _DEFAULT_ACTIVATIONS[node.op_type] * self.directions
        if "clip" in settings or settings.get("input_forget", 0):
            _refuse(node, "clipping or coupling of gates")
        given = [a.decode() if isinstance(a, bytes) else a for a in settings.get("activations", usual)]
        if given != usual:
            _refuse(node, f"activations {given}")
        if len(node.input) > 4 and node.input[4]:
            lengths = next((t for t in self.graph.initializer if t.name == node.input[4]), None)
            if lengths is None or set(np.ravel(numpy_helper.to_array(lengths))) != {self.steps}:
                _refuse(node, "a length per sequence")

    # --- pieces

    def _op(self, op_type: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = f"{self.prefix}.{op_type}.{len(self.made)}"
        node = helper.make_node(op_type, inputs, [output or name], name=name, **attributes)
        annotate_node(node, self.layer, self.kind, "forward")
        self.made.append(node)
        return str(node.output[0])

    def _ints(self, *numbers: int) -> str:
        name = f"{self.prefix}.ints.{'_'.join(map(str, numbers))}"
        if name not in {t.name for t in self.graph.initializer}:
            self.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def _split(self, a: str, count: int, size: int, axis: int) -> list[str]:
        if count == 1:
            return [a]
        name = f"{self.prefix}.Split.{len(self.made)}"
        outputs = [f"{name}.{i}" for i in range(count)]
        node = helper.make_node("Split", [a, self._ints(*[size] * count)], outputs, name=name, axis=axis)
        annotate_node(node, self.layer, self.kind, "forward")
        self.made.append(node)
        return outputs

    def _part(self, position: int, direction: int) -> str | None:
        """The weight at an input position for one direction, without the axis of directions."""
        if position >= len(self.call.input) or not self.call.input[position]:
            return None
        name, index = self.call.input[position], f"{self.prefix}.direction.{direction}"
        if self.directions == 1:
            return self._op("Squeeze", [name, self._ints(1 if self._is_state(position) and self.batch_first else 0)])
        if index not in {t.name for t in self.graph.initializer}:
            self.graph.initializer.append(numpy_helper.from_array(np.array(direction, np.int64), index))
        return self._op("Gather", [name, index], axis=1 if self._is_state(position) and self.batch_first else 0)

    @staticmethod
    def _is_state(position: int) -> bool:
        return position in (5, 6)

    def _initial(self, position: int, direction: int) -> str | None:
        """An initial state, None where it is zero."""
        name = self.call.input[position] if position < len(self.call.input) else ""
        known = next((t for t in self.graph.initializer if t.name == name), None)
        zero = not name or (known is not None and not numpy_helper.to_array(known).any())
        return None if zero else self._part(position, direction)

    def _add(self, a: str | None, b: str | None) -> str | None:
        """The sum; None stands for zero."""
        return self._op("Add", [a, b]) if a and b else a or b

    # --- one direction

    def _direction(self, x: str, direction: int) -> tuple[list[str], list[str]]:
        """(hidden state of every step in the order of the input, last states)."""
        gates, hidden = GATES[self.call.op_type], self.hidden
        w, r, bias = (self._part(position, direction) for position in (1, 2, 3))
        recurrent = self._op("Transpose", [r or ""], perm=[1, 0])
        inputs = self._op("MatMul", [x, self._op("Transpose", [w or ""], perm=[1, 0])])
        halves = self._split(bias, 2, gates * hidden, 0) if bias else []
        if halves:
            inputs = self._op("Add", [inputs, halves[0]])
        steps = self._split(inputs, self.steps, 1, 0)
        states = [self._initial(5 + i, direction) for i in range(_STATES[self.call.op_type])]
        peepholes = self._part(7, direction) if self.call.op_type == "LSTM" else None
        ways = self._split(peepholes, 3, hidden, 0) if peepholes else []
        backward = direction == 1 or self.settings.get("direction", "forward") == "reverse"
        steppers: dict[str, Step] = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}
        step, made = steppers[self.call.op_type], dict[int, str]()
        for t in reversed(range(self.steps)) if backward else range(self.steps):
            self.layer = f"{self.title}.{'back' if backward else 'step'}{t}"
            given = self._op("Squeeze", [steps[t], self._ints(0)])
            states = step(given, states, recurrent, halves[1:], ways)
            made[t] = str(states[0])
        return [made[t] for t in range(self.steps)], [str(state) for state in states]

    def _carried(self, h: str | None, recurrent: str, bias: list[str]) -> str | None:
        return self._add(self._op("MatMul", [h, recurrent]) if h else None, bias[0] if bias else None)

    def _with(self, x: str, other: str | None) -> str:
        return self._op("Add", [x, other]) if other else x

    def _lstm(self, x: str, states: States, r: str, bias: list[str], ways: list[str]) -> States:
        h, c = states
        i, o, f, g = self._split(self._with(x, self._carried(h, r, bias)), 4, self.hidden, 1)
        if ways and c:
            i, f = (self._op("Add", [gate, self._op("Mul", [w, c])]) for gate, w in ((i, ways[0]), (f, ways[2])))
        kept = self._op("Mul", [self._op("Sigmoid", [f]), c]) if c else None
        c = self._with(self._op("Mul", [self._op("Sigmoid", [i]), self._op("Tanh", [g])]), kept)
        o = self._op("Add", [o, self._op("Mul", [ways[1], c])]) if ways else o
        return [self._op("Mul", [self._op("Sigmoid", [o]), self._op("Tanh", [c])]), c]

    def _gru(self, x: str, states: States, r: str, bias: list[str], _ways: list[str]) -> States:
        h, size = states[0], self.hidden
        xz, xr, xh = self._split(x, 3, size, 1)
        parts, biases = self._split(r, 3, size, 1), self._split(bias[0], 3, size, 0) if bias else []
        hz, hr = (self._carried(h, part, biases[i : i + 1]) for i, part in enumerate(parts[:2]))
        reset = self._op("Sigmoid", [self._with(xr, hr)])
        if self.settings.get("linear_before_reset", 0):
            carried = self._carried(h, parts[2], biases[2:])
            hh = self._op("Mul", [reset, carried]) if carried else None
        else:
            hh = self._carried(self._op("Mul", [reset, h]) if h else None, parts[2], biases[2:])
        new = self._op("Tanh", [self._with(xh, hh)])
        update = self._op("Sigmoid", [self._with(xz, hz)])
        if h is None:
            return [self._op("Sub", [new, self._op("Mul", [update, new])])]
        return [self._op("Add", [new, self._op("Mul", [update, self._op("Sub", [h, new])])])]

    def _rnn(self, x: str, states: States, r: str, bias: list[str], _ways: list[str]) -> States:
        return [self._op("Tanh", [self._with(x, self._carried(states[0], r, bias))])]

    # --- outputs

    def _outputs(self, directions: list[tuple[list[str], list[str]]]) -> None:
        """Y [steps, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden]; batch first where asked."""
        rows = [self._stacked([steps for steps, _ in directions][d]) for d in range(len(directions))]
        if self._wanted(0):
            whole = self._joined([self._op("Unsqueeze", [r, self._ints(2 if self.batch_first else 1)]) for r in rows],
                                 2 if self.batch_first else 1)  # fmt: skip
            self._op("Identity", [whole], self.call.output[0])
        for position in range(_STATES[self.call.op_type]):
            if self._wanted(1 + position):
                axis = 1 if self.batch_first else 0
                last = [self._op("Unsqueeze", [states[position], self._ints(axis)]) for _, states in directions]
                self._op("Identity", [self._joined(last, axis)], self.call.output[1 + position])

    def _stacked(self, steps: list[str]) -> str:
        """[steps, batch, hidden], or batch first."""
        axis = 1 if self.batch_first else 0
        return self._joined([self._op("Unsqueeze", [step, self._ints(axis)]) for step in steps], axis)

    def _joined(self, parts: list[str], axis: int) -> str:
        return parts[0] if len(parts) == 1 else self._op("Concat", parts, axis=axis)

    def _wanted(self, position: int) -> bool:
        return position < len(self.call.output) and bool(self.call.output[position])
