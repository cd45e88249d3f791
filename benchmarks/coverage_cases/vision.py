"""timm families and torchvision's backbones, two images each."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from .case import Case, Made

TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {"layers": (1, 1, 1, 1)}),
    "resnet26d": (64, {"layers": (1, 1, 1, 1)}),
    "seresnet18": (64, {"layers": (1, 1, 1, 1)}),
    "skresnet18": (64, {"layers": (1, 1, 1, 1)}),
    "res2net50_14w_8s": (64, {"layers": (1, 1, 1, 1)}),
    "resnest14d": (64, {}),
    "resnetv2_18": (64, {"layers": (1, 1, 1, 1)}),
    "ecaresnet26t": (64, {"layers": (1, 1, 1, 1)}),
    "regnetx_002": (64, {}),
    "regnety_002": (64, {}),
    "densenet121": (64, {"block_config": (2, 2, 2, 2)}),
    "dla34": (64, {"levels": (1, 1, 1, 1, 1, 1), "channels": (8, 16, 32, 32, 64, 64)}),
    "dpn48b": (64, {"k_sec": (1, 1, 1, 1)}),
    "efficientnet_b0": (64, {}),
    "mobilenetv2_050": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mnasnet_050": (64, {}),
    "mixnet_s": (64, {}),
    "lcnet_050": (64, {}),
    "tinynet_e": (64, {}),
    "fbnetc_100": (64, {}),
    "hardcorenas_a": (64, {}),
    "ghostnet_050": (64, {}),
    "repghostnet_050": (64, {}),
    "rexnet_100": (64, {}),
    "hgnetv2_b0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "inception_v3": (128, {}),
    "inception_next_atto": (64, {"depths": (1, 1, 2, 1)}),
    "convnext_atto": (64, {"depths": (1, 1, 2, 1)}),
    "convnextv2_atto": (64, {"depths": (1, 1, 2, 1)}),
    "convmixer_768_32": (56, {}),
    "cspresnet50": (64, {}),
    "darknet17": (64, {}),
    "vovnet39a": (64, {}),
    "nf_resnet26": (64, {}),
    "dm_nfnet_f0": (64, {}),
    "edgenext_xx_small": (64, {"depths": (1, 1, 2, 1)}),
    "fastvit_t8": (64, {"layers": (1, 1, 2, 1)}),
    "fasternet_t0": (64, {"depths": (1, 1, 2, 1)}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (224, {}),
    "efficientformer_l1": (224, {"depths": (1, 1, 2, 2)}),
    "efficientformerv2_s0": (64, {"depths": (1, 1, 2, 2), "img_size": 64}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, {"img_size": 64}),
    "levit_128s": (64, {"img_size": 64}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "mobileone_s0": (64, {}),
    "repvit_m0_9": (64, {"depth": (1, 1, 2, 1)}),
    "starnet_s1": (64, {}),
    "shvit_s1": (64, {"depth": (1, 2, 2)}),
    "selecsls42": (64, {}),
    "xception41": (64, {}),
    "swiftformer_xs": (64, {"layers": (1, 1, 2, 1)}),
    "mambaout_femto": (64, {"depths": (1, 1, 2, 1)}),
    "poolformer_s12": (64, {}),
    "caformer_s18": (64, {}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "twins_svt_small": (224, {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64)}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "gmlp_ti16_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "vit_tiny_patch16_224": (64, {"depth": 2, "img_size": 64}),
    "vit_relpos_small_patch16_224": (64, {"depth": 2, "img_size": 64, "embed_dim": 96, "num_heads": 3}),
    "deit_tiny_patch16_224": (64, {"depth": 2, "img_size": 64}),
    "deit3_small_patch16_224": (64, {"depth": 2, "img_size": 64, "embed_dim": 96, "num_heads": 3}),
    "cait_xxs24_224": (64, {"depth": 2, "img_size": 64}),
    "convit_tiny": (64, {"depth": 2, "img_size": 64}),
    "crossvit_tiny_240": (240, {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0)), "embed_dim": (48, 96)}),
    "coat_lite_tiny": (64, {"serial_depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "img_size": 64}),
    "coatnet_nano_rw_224": (64, {"img_size": 64}),
    "davit_tiny": (64, {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 192)}),
    "eva02_tiny_patch14_224": (56, {"depth": 2, "img_size": 56}),
    "hiera_tiny_224": (224, {"embed_dim": 24, "stages": (1, 1, 2, 1)}),
    "maxvit_pico_rw_256": (64, {"img_size": 64}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "nest_tiny": (64, {"img_size": 64}),
    "pit_ti_224": (64, {"depth": (1, 1, 1), "img_size": 64}),
    "swin_tiny_patch4_window7_224": (64, {"depths": (1, 1, 2, 1), "embed_dim": 24, "img_size": 64, "window_size": 4}),
    "swinv2_tiny_window8_256": (64, {"depths": (1, 1, 2, 1), "embed_dim": 24, "img_size": 64, "window_size": 4}),
    "swinv2_cr_tiny_224": (64, {"depths": (1, 1, 2, 1), "embed_dim": 24, "img_size": 64, "window_size": 4}),
    "tiny_vit_5m_224": (64, {"depths": (1, 1, 2, 1)}),
    "tnt_s_legacy_patch16_224": (64, {"depth": 2, "img_size": 64}),
    "visformer_tiny": (64, {"depth": (1, 1, 1), "img_size": 64}),
    "volo_d1_224": (64, {"img_size": 64}),
    "xcit_nano_12_p16_224": (64, {"depth": 2, "img_size": 64}),
    "beit_base_patch16_224": (64, {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64}),
    "botnet26t_256": (64, {"img_size": 64}),
    "sequencer2d_s": (64, {"layers": (1, 1, 1, 1), "img_size": 64}),
}
"""Model by model the side of its images, and settings that make it shallower: what is shown is the operators."""

TORCHVISION = {
    "resnet18": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "mnasnet0_5": 64,
    "regnet_y_400mf": 64,
    "efficientnet_v2_s": 64,
    "convnext_tiny": 64,
    "googlenet": 96,
    "swin_t": 224,
    "vit_b_32": 224,
}


def cases() -> Iterator[Case]:
    """timm's models, torchvision's, and the backbones of its detectors."""
    for name, (side, settings) in TIMM.items():
        yield Case("timm", name, partial(_timm, name, side, settings))
    for name, side in TORCHVISION.items():
        yield Case("torchvision", name, partial(_torchvision, name, side))
    yield Case("torchvision", "r3d_18", _video)
    yield Case("torchvision", "resnet18 feature pyramid", _pyramid)
    yield Case("torchvision", "mobilenet_v3_large feature pyramid", _mobile_pyramid)
    for name in SEGMENTED:
        yield Case("torchvision", name, partial(_segmented, name))
    for name in DETECTORS:
        yield Case("torchvision", f"{name} without its matching", partial(_detector, name))


SEGMENTED = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
DETECTORS = ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn")


def _images(side: int) -> tuple[Any, Any]:
    """So many small images that batch-norm of the last stage has more than a few values to average."""
    import torch

    count = 8 if side <= 128 else 2
    return torch.randn(count, 3, side, side), torch.arange(count) * 3 % 10


def _timm(name: str, side: int, settings: dict[str, Any]) -> Made:
    import timm
    import torch

    module, batch = timm.create_model(name, pretrained=False, num_classes=10, **settings), _images(side)
    with torch.no_grad():
        module.eval()(batch[0][:1])  # what the first call makes, such as tables for the size of the images
    return module, torch.nn.functional.cross_entropy, batch


def _torchvision(name: str, side: int) -> Made:
    import torch
    import torchvision

    settings = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    module = torchvision.models.get_model(name, weights=None, num_classes=10, **settings)
    return module, torch.nn.functional.cross_entropy, _images(side)


def _video() -> Made:
    import torch
    import torchvision

    module = torchvision.models.video.r3d_18(weights=None, num_classes=10)
    return module, torch.nn.functional.cross_entropy, (torch.randn(4, 3, 8, 48, 48), torch.tensor([1, 3, 0, 7]))


def _pyramid() -> Made:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    module = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return module, lambda maps: sum(m.square().mean() for m in maps.values()), (_images(64)[0], None)


def _mobile_pyramid() -> Made:
    from torchvision.models.detection.backbone_utils import mobilenet_backbone

    module = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6)
    return module, lambda maps: sum(m.square().mean() for m in maps.values()), (_images(64)[0], None)


def _segmented(name: str) -> Made:
    import torch
    import torchvision

    module = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)

    def loss(out: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(out["out"], labels)

    return module, loss, (_images(64)[0], torch.arange(8 * 64 * 64).reshape(8, 64, 64) % 5)


def _detector(name: str) -> Made:
    """Backbone and heads; which box belongs to which object depends on values, and is left out."""
    import torch
    import torchvision

    whole = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)

    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = whole.backbone, whole.head

        def forward(self, x: Any) -> Any:
            return self.head(list(self.backbone(x).values()))

    return Heads(), lambda out: sum(v.square().mean() for v in out.values()), (_images(128)[0], None)
