"""GPT-2 training steps with AdamW as planning problems (Radford et al. 2019), on the roofline of `networks`."""

from dataclasses import dataclass, field

from networks import FLOAT, Builder, Device

from planc.problem.problem import Origin


@dataclass
class _Gpt:
    """Forward operators append what their backward needs; `backward` is replayed in reverse."""

    b: Builder
    tokens: int
    width: int
    heads: int
    backward: list[tuple[str, tuple[int, ...], int, tuple[int, ...], float]] = field(default_factory=list)

    def parameter(self, name: str, count: int) -> tuple[int, int, int]:
        """Weight and both moments."""
        kinds = ("weight", "first", "second")
        made = [self.b.value(f"{name}.{kind}", count * FLOAT, Origin.STATE) for kind in kinds]
        return made[0], made[1], made[2]

    def op(self, name: str, inputs: tuple[int, ...], size: int, flops: float = 0.0, state: tuple[int, ...] = ()) -> int:
        """An operator with one output of `size` bytes, and a weight if `state` names one with its moments."""
        b, y = self.b, self.b.value(name, size)
        reads = (*inputs, *state[:1])
        b.task(name, reads, (y,), flops, b.size(*reads, y), repeat=True)
        self.backward.append((name, inputs, y, state, flops))
        return y

    def linear(self, name: str, x: int, inner: int, outer: int) -> int:
        state = self.parameter(name, inner * outer + outer)
        return self.op(name, (x,), self.tokens * outer * FLOAT, 2.0 * self.tokens * inner * outer, state)

    def norm(self, name: str, x: int) -> int:
        return self.op(name, (x,), self.b.size(x), state=self.parameter(name, 2 * self.width))

    def layer(self, name: str, x: int) -> int:
        d, act = self.width, self.b.size(x)
        qkv = self.linear(f"{name}.qkv", self.norm(f"{name}.norm1", x), d, 3 * d)
        flops = 2.0 * self.tokens * self.tokens * d
        scores = self.op(f"{name}.softmax", (qkv,), self.heads * self.tokens * self.tokens * FLOAT, flops)
        mixed = self.op(f"{name}.attend", (qkv, scores), act, flops)
        x = self.op(f"{name}.add1", (x, self.linear(f"{name}.out", mixed, d, d)), act)
        hidden = self.linear(f"{name}.up", self.norm(f"{name}.norm2", x), d, 4 * d)
        gelu = self.op(f"{name}.gelu", (hidden,), self.b.size(hidden))
        return self.op(f"{name}.add2", (x, self.linear(f"{name}.down", gelu, 4 * d, d)), act)

    def back(self, first: int) -> None:
        b = self.b
        for name, inputs, y, state, flops in reversed(self.backward):
            if ".add" in name:
                for x in inputs:
                    self.pass_on(x, b.gradient[y])
                continue
            wanted = [x for x in inputs if x != first]
            grads = [b.value(f"{name}.grad", b.size(x)) for x in wanted]
            weight = [b.value(f"{name}.weight.grad", b.size(state[0]))] if state else []
            reads = (*inputs, b.gradient[y], *state[:1])
            b.task(f"{name}.back", reads, (*grads, *weight), 2 * flops, 2 * b.size(*reads, *grads))
            if weight:
                b.update(f"{name}.adamw", weight[0], state)
            for x, grad in zip(wanted, grads, strict=True):
                b.add_gradient(x, grad)

    def pass_on(self, x: int, grad: int) -> None:
        """An addition hands its output's gradient to both inputs."""
        if x in self.b.gradient:
            self.b.add_gradient(x, grad)
        else:
            self.b.gradient[x] = grad


def gpt2(layers: int, width: int, heads: int, tokens: int, device: Device, vocabulary: int = 50257) -> Builder:
    """Training step of GPT-2; 48 layers, width 1600, 25 heads make GPT-2 XL. The output projection is not tied."""
    b = Builder(device)
    net = _Gpt(b, tokens, width, heads)
    ids = b.value("ids", tokens * 8, Origin.BATCH)
    x = net.op("embed", (ids,), tokens * width * FLOAT, state=net.parameter("embed", (vocabulary + tokens) * width))
    for index in range(layers):
        x = net.layer(f"h{index}", x)
    logits = net.linear("head", net.norm("norm", x), width, vocabulary)
    b.gradient[logits] = b.value("logits.grad", b.size(logits))
    b.task("loss", (logits,), (b.gradient[logits],), moved=2 * b.size(logits))
    net.back(ids)
    return b
