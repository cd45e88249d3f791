"""timm families and torchvision's backbones, two images each."""

from collections.abc import Iterator
from functools import partial

from .case import Case, Made

TIMM = {
    "resnet18": 64,
    "resnet26d": 64,
    "seresnet18": 64,
    "skresnet18": 64,
    "res2net50_14w_8s": 64,
    "resnest14d": 64,
    "resnetv2_18": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "densenet121": 64,
    "dla34": 64,
    "dpn48b": 64,
    "efficientnet_b0": 64,
    "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64,
    "mnasnet_050": 64,
    "lcnet_050": 64,
    "tinynet_e": 64,
    "fbnetc_100": 64,
    "hardcorenas_a": 64,
    "ghostnet_050": 64,
    "repghostnet_050": 64,
    "rexnet_100": 64,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "inception_v3": 128,
    "inception_next_atto": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "convmixer_768_32": 56,
    "cspresnet50": 64,
    "darknet17": 64,
    "vovnet39a": 64,
    "nf_resnet26": 64,
    "dm_nfnet_f0": 64,
    "edgenext_xx_small": 64,
    "fastvit_t8": 64,
    "fasternet_t0": 64,
    "focalnet_tiny_srf": 64,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "efficientvit_b0": 64,
    "efficientvit_m0": 224,
    "levit_128s": 224,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "mobileone_s0": 64,
    "repvit_m0_9": 64,
    "starnet_s1": 64,
    "shvit_s1": 64,
    "selecsls42": 64,
    "vgg11": 32,
    "xception41": 64,
    "swiftformer_xs": 64,
    "mambaout_femto": 64,
    "poolformer_s12": 64,
    "caformer_s18": 64,
    "pvt_v2_b0": 64,
    "twins_svt_small": 224,
    "mixer_s32_224": 224,
    "gmlp_ti16_224": 224,
    "resmlp_12_224": 224,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_patch16_224": 224,
    "cait_xxs24_224": 224,
    "convit_tiny": 224,
    "crossvit_tiny_240": 240,
    "coat_lite_tiny": 224,
    "coatnet_nano_rw_224": 224,
    "davit_tiny": 224,
    "eva02_tiny_patch14_224": 224,
    "hiera_tiny_224": 224,
    "maxvit_pico_rw_256": 256,
    "mvitv2_tiny": 224,
    "nest_tiny": 224,
    "pit_ti_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_cr_tiny_224": 224,
    "tiny_vit_5m_224": 224,
    "tnt_s_legacy_patch16_224": 224,
    "visformer_tiny": 224,
    "volo_d1_224": 224,
    "xcit_nano_12_p16_224": 224,
    "beit_base_patch16_224": 224,
    "botnet26t_256": 256,
    "sequencer2d_s": 224,
}
"""Model by model the side of its images."""

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
    for name, side in TIMM.items():
        yield Case("timm", name, partial(_timm, name, side))
    for name, side in TORCHVISION.items():
        yield Case("torchvision", name, partial(_torchvision, name, side))
    yield Case("torchvision", "r3d_18", _video)
    yield Case("torchvision", "resnet18 feature pyramid", _pyramid)


def _timm(name: str, side: int) -> Made:
    import timm
    import torch

    module = timm.create_model(name, pretrained=False, num_classes=10)
    return module, torch.nn.functional.cross_entropy, (torch.randn(2, 3, side, side), torch.tensor([1, 3]))


def _torchvision(name: str, side: int) -> Made:
    import torch
    import torchvision

    settings = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    module = torchvision.models.get_model(name, weights=None, num_classes=10, **settings)
    return module, torch.nn.functional.cross_entropy, (torch.randn(2, 3, side, side), torch.tensor([1, 3]))


def _video() -> Made:
    import torch
    import torchvision

    module = torchvision.models.video.r3d_18(weights=None, num_classes=10)
    return module, torch.nn.functional.cross_entropy, (torch.randn(2, 3, 4, 32, 32), torch.tensor([1, 3]))


def _pyramid() -> Made:
    import torch
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    module = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return module, lambda maps: sum(m.square().mean() for m in maps.values()), (torch.randn(2, 3, 64, 64), None)
