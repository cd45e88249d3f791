"""Planning problems of whole training steps from a roofline: no model file, no device.

One task an operator, one value a tensor; an operator lasts max(flops / rate, bytes moved / bandwidth) plus a launch
time. Parameters and their optimizer state are state values, updated in place as soon as their gradient is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planc.problem.problem import Origin, Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule

FLOAT = 4


@dataclass(frozen=True, slots=True)
class Device:
    """Sustained figures of a device: flop/s, device-memory and link bandwidth in bytes/s, launch time in ns."""

    flops: float
    memory: float
    link: float
    launch_ns: int = 2_000


# The first two are this project's planning assumptions for a 2017 12 GB card and an H100; the third is the published
# peak of an RTX 4090 (82.6 Tflop/s float32, 1008 GB/s, PCIe 4.0 x16) at 60 % of compute and 25 GB/s of link.
GPU_2017 = Device(4.3e12 * 0.6, 240e9, 12e9)
H100 = Device(60e12, 3e12, 50e9)
RTX_4090 = Device(82.6e12 * 0.6, 1008e9, 25e9)


@dataclass
class Builder:
    """Collects tasks and values in order; `gradient` maps a value to the value that holds its gradient."""

    device: Device
    tasks: list[Task] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    gradient: dict[int, int] = field(default_factory=dict)

    def value(self, name: str, size: int, origin: Origin = Origin.COMPUTED) -> int:
        """A value of `size` bytes; its index."""
        ns = -(-size * 10**9 // int(self.device.link))
        self.values.append(Value(name, size, origin, True, ns, ns))
        return len(self.values) - 1

    def size(self, *values: int) -> int:
        """Bytes of the values together."""
        return sum(self.values[v].bytes for v in values)

    def task(
        self, name: str, reads: Sequence[int], writes: Sequence[int], flops: float = 0.0, moved: float = 0.0,
        repeat: bool = False,
    ) -> None:  # fmt: skip
        """Append a task; `moved` are its bytes to and from device memory, `repeat` says that it may be recomputed."""
        seconds = max(flops / self.device.flops, moved / self.device.memory)
        made = [v for v in writes if self.values[v].origin is Origin.COMPUTED]
        unique = tuple(dict.fromkeys(reads))
        duration = self.device.launch_ns + round(seconds * 1e9)
        self.tasks.append(Task(name, duration, unique, tuple(writes), self.size(*made), repeat))

    def add_gradient(self, value: int, part: int) -> None:
        """Let `part` be (a summand of) the gradient of `value`."""
        if value not in self.gradient:
            self.gradient[value] = part
            return
        total = self.value(f"{self.values[value].name}.grad", self.size(value))
        self.task("accumulate", (self.gradient[value], part), (total,), moved=3 * self.size(value))
        self.gradient[value] = total

    def update(self, name: str, gradient: int, state: Sequence[int]) -> None:
        """Apply the optimizer in place to the state values of one parameter."""
        self.task(name, (gradient, *state), tuple(state), moved=self.size(gradient) + 2 * self.size(*state))

    def problem(self, fraction: float = 1.0, host: int | None = None, budget: int | None = None) -> Problem:
        """The problem at `budget` bytes, or at a fraction of the peak of keeping everything."""
        whole = Problem(tuple(self.tasks), tuple(self.values), 1 << 62, host)
        if budget is None:
            peak = max(memory_profile(whole, Schedule(tuple(range(len(self.tasks))))))
            budget = int(peak * fraction)
        return replace(whole, budget_bytes=budget)


@dataclass
class _Resnet:
    b: Builder
    batch: int
    backward: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)

    def conv(self, x: int, inner: int, outer: int, kernel: int, pixels: int) -> int:
        b, size = self.b, self.batch * outer * pixels * FLOAT
        weight_bytes = inner * outer * kernel * kernel * FLOAT
        index = len(self.backward)
        weight = b.value(f"weight{index}", weight_bytes, Origin.STATE)
        momentum = b.value(f"momentum{index}", weight_bytes, Origin.STATE)
        y = b.value("conv", size)
        flops = 2.0 * self.batch * outer * inner * kernel * kernel * pixels
        b.task("conv", (x, weight), (y,), flops, b.size(x, y, weight), repeat=True)
        self.backward.append(("conv", (x, y, weight, momentum, flops)))
        return y

    def unary(self, kind: str, x: int, passes: int, size: int | None = None) -> int:
        y = self.b.value(kind, self.b.size(x) if size is None else size)
        self.b.task(kind, (x,), (y,), moved=(passes - 1) * self.b.size(x) + self.b.size(y), repeat=True)
        self.backward.append((kind, (x, y)))
        return y

    def block(self, x: int, inner: int, width: int, pixels: int, stride: int, project: bool) -> int:
        b, after = self.b, pixels // (stride * stride)
        a = self.unary("relu", self.unary("norm", self.conv(x, inner, width, 1, pixels), 3), 2)
        a = self.unary("relu", self.unary("norm", self.conv(a, width, width, 3, after), 3), 2)
        a = self.unary("norm", self.conv(a, width, 4 * width, 1, after), 3)
        short = self.unary("norm", self.conv(x, inner, 4 * width, 1, after), 3) if project else x
        z = b.value("add", b.size(a))
        b.task("add", (a, short), (z,), moved=3 * b.size(a), repeat=True)
        self.backward.append(("add", (a, short, z)))
        return self.unary("relu", z, 2)

    def conv_back(self, x: int, y: int, weight: int, momentum: int, flops: float, image: int) -> None:
        b, moved = self.b, self.b.size(x, y, weight)
        grad = b.value("weight.grad", b.size(weight))
        outs, times = (grad,), 1
        if x != image:
            outs, times = (b.value("conv.grad", b.size(x)), grad), 2
        b.task("conv.back", (x, b.gradient[y], weight), outs, times * flops, times * moved)
        b.update("update", grad, (weight, momentum))
        if x != image:
            b.add_gradient(x, outs[0])

    def back(self, image: int) -> None:
        b, passes = self.b, {"norm": 5, "relu": 3, "pool": 3, "mean": 1}
        for kind, made in reversed(self.backward):
            if kind == "conv":
                self.conv_back(*made, image)  # type: ignore[arg-type]
            elif kind == "add":
                a, short, z = made
                b.gradient[a] = b.gradient[z]  # type: ignore[index]
                b.add_gradient(short, b.gradient[z])  # type: ignore[arg-type, index]
            else:
                x, y = made
                grad = b.value(f"{kind}.grad", b.size(x))  # type: ignore[arg-type]
                reads = {"norm": (x,), "relu": (y,), "pool": (x, y), "mean": ()}[kind]
                moved = passes[kind] * b.size(x)  # type: ignore[arg-type]
                b.task(f"{kind}.back", (*reads, b.gradient[y]), (grad,), moved=moved)  # type: ignore[arg-type, index]
                b.add_gradient(x, grad)  # type: ignore[arg-type]


def resnet(blocks: Sequence[int], batch: int, device: Device, image: int = 224) -> Builder:
    """Training step with momentum of a bottleneck ResNet (He et al. 2016); (3, 4, 6, 3) blocks make ResNet-50."""
    b = Builder(device)
    net = _Resnet(b, batch)
    pictures = b.value("image", batch * 3 * image * image * FLOAT, Origin.BATCH)
    x = net.unary("relu", net.unary("norm", net.conv(pictures, 3, 64, 7, (image // 2) ** 2), 3), 2)
    side = image // 4
    x = net.unary("pool", x, 2, batch * 64 * side * side * FLOAT)
    inner = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for index in range(count):
            stride = 2 if index == 0 and stage > 0 else 1
            x = net.block(x, inner, width, side * side, stride, index == 0)
            inner, side = 4 * width, side // stride
    x = net.conv(net.unary("mean", x, 2, batch * inner * FLOAT), inner, 1000, 1, 1)
    b.gradient[x] = b.value("logits.grad", b.size(x))
    b.task("loss", (x,), (b.gradient[x],), moved=2 * b.size(x))
    net.back(pictures)
    return b
