"""The training steps that are measured on a card, built with the operator forms for CUDA."""

from dataclasses import dataclass

from planc.importer.import_model import ImportedModel, import_model
from planc.training import differentiate
from planc.training.optimizers import Optimizer
from planc.zoo import ZooOptions, build_forward


@dataclass(frozen=True)
class Case:
    """A zoo network with its options, optimizer and precision."""

    network: str
    options: ZooOptions
    optimizer: Optimizer
    precision: str = "float32"


CASES = {
    "r18-small": Case("resnet18", ZooOptions(batch=16, image=112), Optimizer("momentum")),
    "gpt-small": Case("gpt2", ZooOptions(batch=4, seq=128, depth=4, width=256, classes=2000), Optimizer("adamw")),
    "bert-small": Case("bert_base", ZooOptions(batch=4, seq=64, depth=2, width=128), Optimizer("adamw")),
    "squeezenet-1": Case("squeezenet", ZooOptions(batch=1), Optimizer("momentum")),
    "densenet-1": Case("densenet121", ZooOptions(batch=1), Optimizer("momentum")),
    "r50-32": Case("resnet50", ZooOptions(batch=32), Optimizer("momentum")),
    "r50-128": Case("resnet50", ZooOptions(batch=128), Optimizer("momentum")),
    "r50-64": Case("resnet50", ZooOptions(batch=64), Optimizer("momentum")),
    "r152-32": Case("resnet152", ZooOptions(batch=32), Optimizer("momentum")),
    "gpt2": Case("gpt2", ZooOptions(batch=8, seq=1024), Optimizer("adamw")),
    "r50-32-half": Case("resnet50", ZooOptions(batch=32), Optimizer("momentum"), "float16"),
    "deep-152": Case("resnet", ZooOptions(batch=16, depth=152), Optimizer("momentum")),
    "r50-32-bf16": Case("resnet50", ZooOptions(batch=32), Optimizer("momentum"), "bf16"),
    "gpt2-bf16": Case("gpt2", ZooOptions(batch=8, seq=1024), Optimizer("adamw"), "bf16"),
    "gpt-small-bf16": Case(
        "gpt2", ZooOptions(batch=4, seq=128, depth=4, width=256, classes=2000), Optimizer("adamw"), "bf16"
    ),
    "vit-b16": Case("vit_b16", ZooOptions(batch=32), Optimizer("adamw")),
    "convnext-t": Case("convnext_tiny", ZooOptions(batch=32), Optimizer("adamw")),
    "llama-1024": Case("llama", ZooOptions(batch=8, seq=1024), Optimizer("adamw")),
    "llama-4096": Case("llama", ZooOptions(batch=2, seq=4096), Optimizer("adamw")),
    "unet": Case("unet", ZooOptions(batch=8), Optimizer("momentum")),
    "gpt2-half": Case("gpt2", ZooOptions(batch=8, seq=1024), Optimizer("adamw"), "float16"),
}


def build(name: str) -> ImportedModel:
    """The training step of a case of the table, imported with fused operators."""
    return import_case(CASES[name])


def import_case(case: Case) -> ImportedModel:
    """The training step of a case, imported with fused operators."""
    forward = build_forward(case.network, case.options)
    step = differentiate(
        forward.model, loss=forward.loss, optimizer=case.optimizer, device="cuda", precision=case.precision,
        parameters=forward.parameters,
    )  # fmt: skip
    return import_model(step, fused=True)
