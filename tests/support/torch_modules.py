"""Small PyTorch modules of the kinds that people train, each with a loss and a batch; built anew from a seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A module, its loss and an example batch (inputs, targets)."""

    module: nn.Module
    loss: Callable[..., Tensor]
    batch: tuple[Any, Any]


def _images(batch: int = 4, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size)


def _classes(batch: int = 4, classes: int = 10) -> Tensor:
    return torch.randint(0, classes, (batch,))


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1 around a shortcut."""

    def __init__(self, width: int, out: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        middle = out // 2
        self.conv1, self.bn1 = nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        y += self.shortcut(x)
        return self.relu(y)


def resnet() -> Case:
    """Stem with an overlapping max-pool, two bottlenecks, global average pool."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks = nn.Sequential(Bottleneck(8, 16, 1), Bottleneck(16, 32, 2, groups=2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return Case(nn.Sequential(stem, blocks, head), nn.CrossEntropyLoss(), (_images(size=24), _classes()))


class InvertedResidual(nn.Module):
    """Depthwise convolution with ReLU6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 3 * width
        self.body = nn.Sequential(
            nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide), nn.BatchNorm2d(wide), nn.Hardswish(),
            nn.Conv2d(wide, width, 1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def mobilenet() -> Case:
    """A strided stem, an inverted residual, mean over the image."""

    class MobileNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, 2, 1), InvertedResidual(8), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.stem(x)).mean([2, 3]))

    return Case(MobileNet(), F.cross_entropy, (_images(), _classes()))


class Mixed(nn.Module):
    """Branches of asymmetric kernels, average and max pools with a ceiling, channel shuffle, dense concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.wide, self.tall = nn.Conv2d(8, 4, (1, 7), padding=(0, 3)), nn.Conv2d(8, 4, (7, 1), padding=(3, 0))
        self.pool, self.outer = nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.last = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.lrn, self.head = nn.PReLU(8), nn.Linear(16 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrn(self.stem(x))
        y = torch.cat([self.wide(x), self.tall(x), self.pool(x)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        left, right = self.outer(y).chunk(2, 1)
        y = self.last(torch.cat([left * torch.sigmoid(right), F.leaky_relu(right)], 1))
        return self.head(F.adaptive_avg_pool2d(y, 3).flatten(1))


def inception() -> Case:
    """See Mixed."""
    return Case(Mixed(), F.cross_entropy, (_images(size=17), _classes()))


class UNet(nn.Module):
    """Down, up by transposed convolution and by interpolation, skip connections, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm, self.bottom = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.up1, self.merge = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(24, 8, 3, padding=1)
        self.nearest, self.head = nn.Upsample(scale_factor=2), nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.silu(self.norm(self.down2(F.max_pool2d(a, 2))))
        c = F.gelu(self.bottom(F.max_pool2d(b, 2)))
        c = F.interpolate(c, scale_factor=2, mode="bilinear", align_corners=True)
        y = torch.cat([F.interpolate(self.up1(F.avg_pool2d(c, 2)), size=b.shape[2:], mode="bilinear"), b], 1)
        return self.head(torch.cat([self.nearest(self.merge(y)), self.nearest(c)], 1))


def unet() -> Case:
    """Cross-entropy per pixel."""
    return Case(UNet(), nn.CrossEntropyLoss(), (_images(2), torch.randint(0, 5, (2, 16, 16))))


class CausalBlock(nn.Module):
    """A GPT block: fused query, key and value, scaled-dot-product attention, GELU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            part.view(n, t, self.heads, d // self.heads).transpose(1, 2) for part in self.qkv(self.ln1(x)).split(d, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(n, t, d)))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """Tied token embedding and head, learned positions."""

    def __init__(self, vocabulary: int = 50, width: int = 16, length: int = 12, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(CausalBlock(width, 2, dropout) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over all positions; -100 is ignored."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def gpt(dropout: float = 0.0) -> Case:
    """Some labels are ignored."""
    labels = torch.randint(0, 50, (3, 12))
    labels[0, :4] = -100
    return Case(GPT(dropout=dropout), language_loss, (torch.randint(0, 50, (3, 12)), labels))


def bert() -> Case:
    """torch.nn's own encoder with a padding mask as second input, first token classified."""

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(40, 16, padding_idx=0)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.pooler, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
            self.register_buffer("scale", torch.tensor(math.sqrt(16.0)))

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            x = self.encoder(self.tokens(ids) * self.scale, src_key_padding_mask=mask)
            return self.head(torch.tanh(self.pooler(x[:, 0])))

    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[0, 6:] = True
    return Case(Bert(), F.cross_entropy, ((torch.randint(0, 40, (3, 9)), mask), torch.randint(0, 3, (3,))))


def vit() -> Case:
    """Patches by a strided convolution, a class token, hand-written attention; mean squared error."""

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
            self.positions = nn.Parameter(torch.randn(1, 17, 16) * 0.1)
            self.q, self.k, self.v = (nn.Linear(16, 16, bias=False) for _ in range(3))
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
            y = self.norm(x)
            weights = torch.softmax(self.q(y) @ self.k(y).transpose(-2, -1) / 4, -1)
            return self.head((x + weights @ self.v(y))[:, 0])

    return Case(ViT(), nn.MSELoss(), (_images(2), torch.randn(2, 4)))


def convnext() -> Case:
    """Channels last inside a block, layer scale, a frozen stem and a parameter that nothing uses."""

    class ConvNext(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.depthwise, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
            self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)
            self.gamma, self.unused = nn.Parameter(torch.full((8,), 0.5)), nn.Parameter(torch.zeros(3))
            self.head = nn.Linear(8, 10)
            self.stem.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.narrow(F.gelu(self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
            return self.head((x + (self.gamma * y).permute(0, 3, 1, 2)).mean([-2, -1]))

    return Case(ConvNext(), F.cross_entropy, (_images(), _classes()))


CASES: dict[str, Callable[[], Case]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "inception": inception,
    "unet": unet,
    "gpt": gpt,
    "bert": bert,
    "vit": vit,
    "convnext": convnext,
}


def case(name: str, seed: int = 0) -> Case:
    """A case with values drawn from `seed`."""
    torch.manual_seed(seed)
    return CASES[name]()
