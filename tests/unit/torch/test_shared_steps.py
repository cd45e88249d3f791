"""Several compiled steps over one module: a GAN as eager torch trains it, and losses that are weighted."""

import copy
from pathlib import Path
from typing import Any

import pytest

from planc.errors import UsageError

torch = pytest.importorskip("torch")
nn = torch.nn
bce = nn.functional.binary_cross_entropy_with_logits

import planc.torch  # noqa: E402 - only with torch

QUICK: dict[str, Any] = {"budget": "100%", "device": "cpu", "time_limit": 1.0}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


class Gan(nn.Module):  # type: ignore[misc,name-defined]
    """Both networks; batch-norm in the generator is moved by both steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, noise: Any, real: Any = None) -> Any:
        fake = self.generator(noise)
        if real is None:
            return self.discriminator(fake)
        return self.discriminator(fake.detach()), self.discriminator(real)


def spot(judged: Any) -> Any:
    fake, real = judged
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def fool(judged: Any) -> Any:
    return bce(judged, torch.ones_like(judged))


def optimizers(gan: Any) -> tuple[Any, Any]:
    return torch.optim.Adam(gan.discriminator.parameters(), 0.02), torch.optim.SGD(
        gan.generator.parameters(), 0.1, momentum=0.9
    )


def batch(seed: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)


def test_a_gan_trains_as_in_torch() -> None:
    ours, theirs = Gan(), Gan()
    (d, g), (other_d, other_g) = optimizers(ours), optimizers(theirs)
    shared = planc.torch.Shared()
    noise, real = batch(0)
    spotting = planc.torch.compile_step(ours, spot, d, ((noise, real), None), shared=shared, **QUICK)
    fooling = planc.torch.compile_step(ours, fool, g, (noise, None), shared=shared, **QUICK)
    with spotting, fooling:
        for seed in range(5):
            noise, real = batch(seed)
            for _ in range(1 + seed % 2):  # the discriminator sometimes twice
                other_d.zero_grad()
                expected = spot(theirs(noise, real))
                expected.backward()
                other_d.step()
                torch.testing.assert_close(spotting((noise, real)), expected.detach(), rtol=1e-5, atol=1e-6)
            other_g.zero_grad()
            expected = fool(theirs(noise))
            expected.backward()
            other_g.step()
            torch.testing.assert_close(fooling(noise), expected.detach(), rtol=1e-5, atol=1e-6)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for optimizer, usual in ((d, other_d), (g, other_g)):
        pairs = zip(optimizer.state.values(), usual.state.values(), strict=True)
        for mine, known in pairs:
            for key, value in known.items():
                torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-6)


def test_saving_either_of_two_steps_saves_the_newest_state(tmp_path: Path) -> None:
    """Also from the step whose turn it was not; taken up again, both go on with the same bits."""

    def made() -> Any:
        gan = Gan()
        (d, g), shared, (noise, real) = optimizers(gan), planc.torch.Shared(), batch(0)
        spotting = planc.torch.compile_step(gan, spot, d, ((noise, real), None), shared=shared, **QUICK)
        return gan, spotting, planc.torch.compile_step(gan, fool, g, (noise, None), shared=shared, **QUICK)

    def rounds(spotting: Any, fooling: Any, seeds: range) -> None:
        for seed in seeds:
            noise, real = batch(seed)
            spotting((noise, real))
            fooling(noise)

    whole, spotting, fooling = made()
    with spotting, fooling:
        rounds(spotting, fooling, range(2))
        spotting.save(tmp_path / "d.safetensors")
        fooling.save(tmp_path / "g.safetensors")
        rounds(spotting, fooling, range(2, 4))
    again, spotting, fooling = made()
    with spotting, fooling:
        spotting.load(tmp_path / "d.safetensors")
        fooling.load(tmp_path / "g.safetensors")
        rounds(spotting, fooling, range(2, 4))
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_two_steps_that_do_not_share_are_refused() -> None:
    gan = Gan()
    d, g = optimizers(gan)
    noise, real = batch(0)
    with planc.torch.compile_step(gan, spot, d, ((noise, real), None), **QUICK) as step:
        with pytest.raises(UsageError, match=r"'generator.0.weight' belongs to another compiled step.*Shared\(\)"):
            planc.torch.compile_step(gan, fool, g, (noise, None), **QUICK)
        step((noise, real))
    planc.torch.compile_step(gan, fool, g, (noise, None), **QUICK).close()


def test_what_is_written_between_turns_is_not_lost_in_silence() -> None:
    gan = Gan()
    d, g = optimizers(gan)
    noise, real = batch(0)
    shared = planc.torch.Shared()
    spotting = planc.torch.compile_step(gan, spot, d, ((noise, real), None), shared=shared, **QUICK)
    fooling = planc.torch.compile_step(gan, fool, g, (noise, None), shared=shared, **QUICK)
    with spotting, fooling:
        spotting((noise, real))
        with torch.no_grad():
            gan.discriminator[0].bias.fill_(1.0)
        with pytest.raises(UsageError, match="'discriminator.0.bias' was written in place"):
            fooling(noise)
        spotting.refresh()
        fooling(noise)
        assert (spotting.training.state()["discriminator.0.bias"] == 1.0).all()


def test_weighted_and_auxiliary_losses() -> None:
    class Heads(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.main, self.side = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            hidden = self.body(x).tanh()
            return self.main(hidden), self.side(hidden)

    def weighted(made: Any, labels: Any, target: Any, weight: Any) -> Any:
        main, side = nn.functional.cross_entropy(made[0], labels), nn.functional.mse_loss(made[1], target)
        return {"loss": main + weight * side, "main": main, "side": side}

    ours = Heads()
    theirs = copy.deepcopy(ours)
    mine, usual = (torch.optim.AdamW(m.parameters(), 0.02) for m in (ours, theirs))
    x, labels, target = torch.randn(6, 4), torch.arange(6) % 3, torch.randn(6, 2)
    example = (x, (labels, target, torch.tensor(0.3)))
    with planc.torch.compile_step(ours, weighted, mine, example, **QUICK) as step:
        for weight in (0.3, 0.1, 0.0):
            expected = weighted(theirs(x), labels, target, torch.tensor(weight))
            usual.zero_grad()
            expected["loss"].backward()
            usual.step()
            found = step(x, (labels, target, torch.tensor(weight)))
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value.detach(), rtol=1e-5, atol=1e-6)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-6)
