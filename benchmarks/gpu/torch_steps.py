"""The training steps of `head_to_head.py` as a PyTorch user writes them: networks, and the modes that trade memory.

A step is forward, backward and update of torchvision's or transformers' network on one batch that stays on the card.
"""

import gc
import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

MODES = ("eager", "compile", "compile-graph", "checkpoint", "activation-budget-.5", "activation-budget-.25", "offload")
"""`compile-graph` is the whole compiled step recorded as one CUDA graph; `checkpoint` recomputes every block;
`activation-budget` is what torch.compile may save, as a share; `offload` keeps saved tensors in page-locked memory."""

COMPILED = {"compile": 1.0, "compile-graph": 1.0, "activation-budget-.5": 0.5, "activation-budget-.25": 0.25}
"""Modes that are compiled, with their activation memory budget."""


@dataclass(frozen=True)
class Network:
    """A model, its loss on a batch by whatever wraps it, and the blocks that a user would checkpoint."""

    model: Any
    loss: Callable[[Any], Any]
    blocks: list[Any]


def _images(
    model: Any, blocks: Iterable[Any], batch: int, image: int, labels: tuple[int, ...], classes: int
) -> Network:
    """A network of images in channels-last memory, with cross-entropy over `classes` on float32 logits."""
    import torch

    model = model.train().to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, image, image).to(memory_format=torch.channels_last)
    y = torch.randint(0, classes, (batch, *labels))
    score = torch.nn.CrossEntropyLoss()
    return Network(model, lambda wrapped: score(wrapped(x).float(), y), list(blocks))


def resnet50(batch: int) -> Network:
    import torchvision

    net = torchvision.models.resnet50()
    return _images(net, (b for s in (net.layer1, net.layer2, net.layer3, net.layer4) for b in s), batch, 224, (), 1000)


def convnext_tiny(batch: int) -> Network:
    """Without stochastic depth."""
    import torchvision

    net = torchvision.models.convnext_tiny(stochastic_depth_prob=0.0)
    blocks = (block for stage in (1, 3, 5, 7) for block in net.features[stage])
    return _images(net, blocks, batch, 224, (), 1000)


def vit_b16(batch: int) -> Network:
    import torchvision

    net = torchvision.models.vit_b_16()
    return _images(net, net.encoder.layers, batch, 224, (), 1000)


def unet(batch: int, image: int = 256, width: int = 64, depth: int = 4) -> Network:
    """The network of planc's zoo: padded convolutions with batch-norm, transposed convolutions, two classes a pixel."""
    import torch
    from torch import nn

    def double(before: int, channels: int) -> Any:
        half = [
            (nn.Conv2d(c, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for c in (before, channels)
        ]
        return nn.Sequential(*half[0], *half[1])

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [3, *(width << level for level in range(depth + 1))]
            self.down = nn.ModuleList(double(a, b) for a, b in itertools.pairwise(sizes))
            climbs = [(width << level + 1, width << level) for level in reversed(range(depth))]
            self.climb = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in climbs)
            self.up = nn.ModuleList(double(2 * b, b) for _, b in climbs)
            self.head = nn.Conv2d(width, 2, 1)

        def forward(self, x: Any) -> Any:
            skips = []
            for level in self.down[:-1]:
                skips.append(level(x))
                x = nn.functional.max_pool2d(skips[-1], 2)
            x = self.down[-1](x)
            for climb, up in zip(self.climb, self.up, strict=True):
                x = up(torch.cat([skips.pop(), climb(x)], 1))
            return self.head(x)

    net = UNet()
    return _images(net, [*net.down, *net.up], batch, image, (image, image), 2)


def _language(model: Any, blocks: Iterable[Any], vocabulary: int, batch: int, tokens: int) -> Network:
    import torch

    model.train()
    x = torch.randint(0, vocabulary, (batch, tokens))
    return Network(model, lambda wrapped: wrapped(input_ids=x, labels=x).loss, list(blocks))


def gpt2(batch: int, tokens: int) -> Network:
    """GPT-2 small without dropout."""
    import transformers

    settings = transformers.GPT2Config(use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    net = transformers.GPT2LMHeadModel(settings)
    return _language(net, net.transformer.h, settings.vocab_size, batch, tokens)


def llama(batch: int, tokens: int) -> Network:
    """24 layers of width 1,024, 16 heads on 4, 0.4 thousand million parameters."""
    import transformers

    settings = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24, num_attention_heads=16,
        num_key_value_heads=4, use_cache=False, max_position_embeddings=4096,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(settings)
    return _language(net, net.model.layers, settings.vocab_size, batch, tokens)


STEPS: dict[str, Callable[[], Network]] = {
    "r50-32": partial(resnet50, 32),
    "r50-128": partial(resnet50, 128),
    "convnext-t": partial(convnext_tiny, 32),
    "vit-b16": partial(vit_b16, 32),
    "unet": partial(unet, 8),
    "gpt2": partial(gpt2, 8, 1024),
    "llama-1024": partial(llama, 8, 1024),
    "llama-4096": partial(llama, 2, 4096),
}


def optimizer(step: str, parameters: Any) -> Any:
    """Momentum for ResNet and U-Net, AdamW for what is trained with it."""
    import torch

    if step.startswith(("r50", "unet")):
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, foreach=True)
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True, capturable=True)


def checkpointed(block: Any) -> None:
    """Have a module save its input alone, and run again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def build(
    step: str, precision: str, mode: str, device: str = "cuda", wrap: Callable[[Any], Any] = lambda model: model
) -> Callable[[], None]:
    """One whole step, to be called again and again; `precision` is tf32 or bf16 (autocast), `wrap` what the model is
    called through."""
    import torch
    import torch._functorch.config

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    with torch.device(device):
        network = STEPS[step]()
    if mode == "checkpoint":
        for block in network.blocks:
            checkpointed(block)
    wrapped = wrap(network.model)

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            return network.loss(wrapped)

    if mode in COMPILED:
        torch._functorch.config.activation_memory_budget = COMPILED[mode]
    loss = torch.compile(forward) if mode in COMPILED else forward
    update, keep = optimizer(step, network.model.parameters()), mode == "compile-graph"

    def saved() -> AbstractContextManager[object]:
        return torch.autograd.graph.save_on_cpu(pin_memory=True) if mode == "offload" else nullcontext()

    def run() -> None:
        with saved():
            value = loss()
        value.backward()
        update.step()
        update.zero_grad(set_to_none=not keep)

    return run


def graphed(run: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph; the peak of memory is counted from its recording on."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay
