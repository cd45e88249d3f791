"""What is changed outside of a compiled step is followed or refused by name; batches are matched by name and type."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from planc.errors import FeedError, UsageError

torch = pytest.importorskip("torch")
nn = torch.nn

import planc.torch  # noqa: E402 - only with torch
from planc.torch.batch import batch_of  # noqa: E402
from planc.torch.export import exported  # noqa: E402

QUICK: dict[str, Any] = {"budget": "100%", "device": "cpu", "time_limit": 1.0}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 3))


def data() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def compiled(module: Any, optimizer: Any, **more: Any) -> Any:
    return planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), **QUICK, **more)


def _replace_weight(module: Any, _: Any) -> None:
    module[0].weight = nn.Parameter(torch.zeros(8, 6))


def _replace_module(module: Any, _: Any) -> None:
    module[2] = nn.GELU()


def _evaluation(module: Any, _: Any) -> None:
    module.eval()


def _freeze_statistics(module: Any, _: Any) -> None:
    module[1].eval()


def _freeze(module: Any, _: Any) -> None:
    module[4].bias.requires_grad_(False)


def _drop_more(module: Any, _: Any) -> None:
    module[3].p = 0.5


def _hook(module: Any, _: Any) -> None:
    module[4].register_forward_hook(lambda *_: None)


def _write(module: Any, _: Any) -> None:
    with torch.no_grad():
        module[4].weight.clamp_(-0.1, 0.1)


def _swap_member(module: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].pop()


def _load_moments(_: Any, optimizer: Any) -> None:
    state = optimizer.state_dict()
    slots = {"step": torch.tensor(3.0), "exp_avg": torch.ones(8, 6), "exp_avg_sq": torch.ones(8, 6)}
    optimizer.load_state_dict({**state, "state": {0: slots}})


CHANGES: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "parameter replaced": (_replace_weight, "'0.weight' was replaced"),
    "module replaced": (_replace_module, "module '2' was replaced"),
    "evaluation mode": (_evaluation, r"\(the root\) is in eval mode"),
    "part in evaluation mode": (_freeze_statistics, "module '1' is in eval mode"),
    "parameter frozen": (_freeze, "requires_grad of '4.bias' is False now"),
    "dropout": (_drop_more, "p of module '3' is 0.5 instead of 0.0"),
    "hook": (_hook, "module '4' has 1 forward hooks instead of 0"),
    "written in place": (_write, r"'4.weight' was written in place.*refresh"),
    "parameter taken out of a group": (_swap_member, "parameter group 0 of Adam holds other parameters"),
    "optimizer state loaded": (_load_moments, "optimizer's state was loaded"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_from_outside_is_refused_by_name(change: str) -> None:
    make, message = CHANGES[change]
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    with compiled(module, optimizer) as step:
        step(*data())
        before = step.training.state()
        make(module, optimizer)
        with pytest.raises(UsageError, match=message):
            step(*data())
        assert step.steps == 1
        assert all(value.tobytes() == before[name].tobytes() for name, value in step.training.state().items())
        step.close()


def test_what_no_step_is_to_see_passes() -> None:
    """Evaluation between steps, gradients of other work, and reads."""
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    with compiled(module, optimizer) as step:
        for _ in range(2):
            step(*data())
            step.sync()
            module.eval()
            module(data()[0]).sum().backward()
            optimizer.zero_grad()
            module.train()
            step.evaluate(data()[0])
            optimizer.state_dict()
        assert step.steps == 2


def test_refresh_takes_what_was_written_and_keeps_what_was_trained() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    with compiled(module, optimizer) as step:
        step(*data())
        trained = step.training.state()
        with torch.no_grad():
            module[4].bias.fill_(2.0)
        step.refresh()
        found = step.training.state()
        assert (found.pop("4.bias") == 2.0).all()
        assert all(value.tobytes() == trained[name].tobytes() for name, value in found.items())
        step(*data())


def test_refresh_takes_a_loaded_optimizer() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    with compiled(module, optimizer) as step:
        step(*data())
        _load_moments(module, optimizer)
        step.refresh()
        assert (step.training.state()["0.weight.moment1"] == 1.0).all()


class Named(nn.Module):  # type: ignore[misc,name-defined]
    """Two inputs of one shape and type that must not be taken for each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 4)

    def forward(self, first: Any, second: Any) -> Any:
        return (self.inner(first) * 2 - second).square().mean()


def test_a_dict_in_another_order_is_the_same_batch() -> None:
    module = Named()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    expected = module(first, second).item()
    example = {"first": first, "second": second}
    with planc.torch.compile_step(module, None, optimizer, (example, None), **QUICK) as step:
        assert float(step({"second": second, "first": first})) == pytest.approx(expected, rel=1e-6)
        with pytest.raises(FeedError, match=r"it lacks inputs\['second'\] and it has inputs\['third'\]"):
            step({"first": first, "third": second})
        with pytest.raises(FeedError, match=r"inputs\['first'\] is of torch.float64, .*torch.float32"):
            step({"first": first.double(), "second": second})
        with pytest.raises(FeedError, match=r"inputs\['first'\] requires a gradient"):
            step({"first": first.clone().requires_grad_(), "second": second})
        with pytest.raises(FeedError, match=r"inputs\['first'\] is a tensor of layout torch.sparse_coo"):
            step({"first": first.to_sparse(), "second": second})
        with pytest.raises(FeedError, match="device meta"):
            step({"first": first.to("meta"), "second": second})
        with pytest.raises(FeedError, match="every value of a batch must be a tensor"):
            step({"first": first, "second": {3}})
        with pytest.raises(FeedError, match=r"it lacks inputs\['second'\] and it has the constant inputs\['second'\]"):
            step({"first": first, "second": 3})
        assert step.steps == 1


SHARE = 0.5


class Tempered(nn.Module):  # type: ignore[misc,name-defined]
    """Reads numbers and a tensor that are no state."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.heat, self.remark = nn.Linear(6, 3), 1.0, 1
        self.mask, self.teacher = torch.ones(3), [nn.Linear(6, 3).requires_grad_(False)]

    def forward(self, x: Any) -> Any:
        return self.inner(x) * self.heat * self.mask * SHARE + self.teacher[0](x)


class Settings:
    """Of a loss, as in a script's arguments."""

    def __init__(self) -> None:
        self.smoothing, self.remark = 0.1, 1


def _share(_: Any, __: Any, ___: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "SHARE", 0.25)


def _teach(module: Any, *_: Any) -> None:
    with torch.no_grad():
        module.teacher[0].weight.mul_(0.5)


OUTSIDE: dict[str, tuple[Callable[..., Any], str]] = {
    "attribute": (lambda m, *_: setattr(m, "heat", 0.5), "attribute 'heat' of module 'Tempered' was changed"),
    "tensor": (lambda m, *_: m.mask.zero_(), "attribute 'mask' of module 'Tempered' was changed"),
    "another tensor": (lambda m, *_: setattr(m, "mask", torch.ones(3)), "attribute 'mask' of module 'Tempered'"),
    "global": (_share, "'SHARE', which Tempered.forward reads"),
    "settings": (
        lambda _, s, *__: setattr(s, "smoothing", 0.2),
        "attribute 'smoothing' of 'settings', as .*loss reads",
    ),
    "cell": (lambda _, __, weights, *___: weights.append(1.0), "'weights', which .*loss reads"),
    "teacher": (_teach, r"a tensor of shape \[3, 6\] that the step reads.*buffer"),
    "attributes that are not read": (lambda m, s, *_: (setattr(m, "remark", 2), setattr(s, "remark", 2)), ""),
}


@pytest.mark.parametrize("change", OUTSIDE)
def test_values_that_a_graph_holds_must_not_change(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, settings, weights = Tempered(), Settings(), [1.0, 2.0]

    def loss(logits: Any, labels: Any) -> Any:
        return nn.functional.cross_entropy(logits, labels, label_smoothing=settings.smoothing) * sum(weights)

    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    outside = exported(module, loss, batch_of(data()), optimizer, "cpu", planc.torch.StepOptions()).outside
    outside.check()
    make, message = OUTSIDE[change]
    make(module, settings, weights, monkeypatch)
    with pytest.raises(UsageError, match=message) if message else nullcontext():
        outside.check()


class Repeated(nn.Module):  # type: ignore[misc,name-defined]
    """Takes what is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.gain = nn.Linear(4, 4), 1.0

    def forward(self, x: Any, share: float, times: int, mode: str | None = None) -> Any:
        for _ in range(times):
            x = torch.tanh(self.inner(x)) * share
        return x.square().mean() * (2 if mode == "double" else 1) * self.gain


def test_floats_of_a_batch_are_inputs_and_other_numbers_constants() -> None:
    module, reference, x = Repeated(), Repeated(), torch.randn(3, 4)
    optimizer, other = (torch.optim.SGD(m.parameters(), 0.1) for m in (module, reference))
    with planc.torch.compile_step(module, None, optimizer, ((x, 2.0, 2, None), None), **QUICK) as step:
        for share in (2.0, 0.5):
            expected = reference(x, share, 2)
            other.zero_grad()
            expected.backward()
            other.step()
            torch.testing.assert_close(step((x, share, 2, None)), expected.detach())
        with pytest.raises(
            FeedError, match=r"inputs\[2\] is 3, the step was compiled for 2: a constant is part of the graph"
        ):
            step((x, 2.0, 3, None))
        step.add_shape((x, 2.0, 1, "double"))
        torch.testing.assert_close(step((x, 1.0, 1, "double")), reference(x, 1.0, 1, "double").detach())
        module.gain = 2.0
        with pytest.raises(UsageError, match="attribute 'gain' of module 'Repeated' was changed"):
            step((x, 1.0, 1, "double"))


def test_strided_inputs_are_read_as_torch_reads_them() -> None:
    module = Named()
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    wide = torch.randn(4, 6)
    views = [(wide.t()[:3], wide[:3, ::2][:, :1].expand(3, 4)), (wide.t()[1:4], wide.t()[2:5].flip(0))]
    with planc.torch.compile_step(module, None, optimizer, (views[0], None), **QUICK) as step:
        for first, second in views:
            assert float(step((first, second))) == pytest.approx(module(first, second).item(), rel=1e-6)


def test_a_closed_step_says_so() -> None:
    module = network()
    step = compiled(module, torch.optim.SGD(module.parameters(), 0.1))
    step.close()
    step.close()
    with pytest.raises(UsageError, match="the step is closed"):
        step(*data())


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.AdamW])
def test_torch_goes_on_where_the_step_left_off(kind: Any) -> None:
    """Two planned steps and one of torch's own are three of torch's own, the optimizer's count included."""
    ours, theirs = network(), network()
    mine, usual = kind(ours.parameters(), 0.01), kind(theirs.parameters(), 0.01)

    def eager(module: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(data()[0]), data()[1]).backward()
        optimizer.step()

    with compiled(ours, mine) as step:
        step(*data())
        step.sync()
        step(*data())
    eager(ours, mine)
    for _ in range(3):
        eager(theirs, usual)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)
    counts = [[float(state["step"]) for state in o.state.values()] for o in (mine, usual)]
    assert counts[0] == counts[1]
