"""diffusers' networks, graph networks, and modules of torch.nn itself."""

from collections.abc import Iterator
from typing import Any

from .case import Case, Made


def cases() -> Iterator[Case]:
    """Diffusion, graphs, recurrence, transformers of torch.nn."""
    yield Case("diffusers", "UNet2D", _unet)
    yield Case("diffusers", "UNet2DCondition", _conditioned)
    yield Case("diffusers", "DiT", _dit)
    yield Case("diffusers", "AutoencoderKL", _autoencoder)
    for name in ("GCNConv", "GATConv", "SAGEConv", "GINConv"):
        yield Case("graphs", name, lambda name=name: _graph(name))
    for name in ("LSTM", "GRU", "RNN"):
        yield Case("torch.nn", f"{name} language model", lambda name=name: _recurrent(name))
    yield Case("torch.nn", "Transformer", _transformer)
    yield Case("torch.nn", "TransformerEncoder", _encoder)


def _noise(module: Any, *inputs: Any) -> Made:
    return module, lambda out, target: (out.sample - target).square().mean(), (inputs, inputs[0])


def _unet() -> Made:
    import torch
    from diffusers import UNet2DModel

    module = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return _noise(module, torch.randn(2, 3, 16, 16), torch.tensor([3, 7]))


def _conditioned() -> Made:
    import torch
    from diffusers import UNet2DConditionModel

    module = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return _noise(module, torch.randn(2, 4, 16, 16), torch.tensor([3, 7]), torch.randn(2, 6, 16))


def _dit() -> Made:
    import torch
    from diffusers import DiTTransformer2DModel

    module = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=100,
    )

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any, timestep: Any, labels: Any) -> Any:
            return self.inner(x, timestep=timestep, class_labels=labels)

    return _noise(Denoiser(), torch.randn(2, 4, 8, 8), torch.tensor([3, 7]), torch.tensor([1, 2]))


def _autoencoder() -> Made:
    import torch
    from diffusers import AutoencoderKL

    module = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
    )
    return _noise(module, torch.randn(2, 3, 16, 16))


def _graph(name: str) -> Made:
    import torch
    import torch_geometric.nn as geometric

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = getattr(geometric, name)
            if name == "GINConv":
                self.first, self.last = (kind(torch.nn.Linear(i, o)) for i, o in ((8, 16), (16, 4)))
            else:
                # Which loops a graph already has decides how many are added: the graph is fixed, so they are given.
                fixed = {"add_self_loops": False} if name in ("GCNConv", "GATConv") else {}
                self.first, self.last = kind(8, 16, **fixed), kind(16, 4, **fixed)

        def forward(self, x: Any, edges: Any) -> Any:
            return self.last(self.first(x, edges).relu(), edges)

    edges = torch.randint(0, 12, (2, 40))
    return Net(), torch.nn.functional.cross_entropy, ((torch.randn(12, 8), edges), torch.randint(0, 4, (12,)))


def _recurrent(name: str) -> Made:
    import torch

    class Language(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 16)
            self.inner = getattr(torch.nn, name)(16, 24, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(24, 50)

        def forward(self, ids: Any) -> Any:
            return self.head(self.inner(self.table(ids))[0]).transpose(1, 2)

    ids = torch.randint(0, 50, (2, 8))
    return Language(), torch.nn.functional.cross_entropy, (ids, ids.clone())


def _transformer() -> Made:
    import torch

    module = torch.nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
    return module, torch.nn.functional.mse_loss, ((torch.randn(2, 6, 16), torch.randn(2, 5, 16)), torch.randn(2, 5, 16))


def _encoder() -> Made:
    import torch

    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    class Padded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Any, padding: Any) -> Any:
            return self.inner(x, src_key_padding_mask=padding)

    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    return Padded(), torch.nn.functional.mse_loss, ((torch.randn(2, 6, 16), padding), torch.randn(2, 6, 16))
