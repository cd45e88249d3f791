"""transformers' architectures with the batch that their own examples pass: attention masks, padding, labels."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from .case import Case, Made

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 120,
    "max_position_embeddings": 64,
    "use_cache": False,
    "d_model": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "d_ff": 64,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "type_vocab_size": 2,
    "num_decoder_layers": 2,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "state_size": 8,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
    "embed_dim": 32,
    "projection_dim": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "hidden_dropout_prob": 0.0,
    "resid_pdrop": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "activation_dropout": 0.0,
    "dropout_rate": 0.0,
    "classifier_dropout": 0.0,
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
"""Settings by name; each configuration takes those that it has."""

DECODERS = {
    "gpt2": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_neox": {},
    "opt": {},
    "gptj": {"rotary_dim": 8},
    "bloom": {},
    "falcon": {},
    "llama": {},
    "mistral": {},
    "mixtral": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_moe": {},
    "phi": {},
    "phi3": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "olmo": {},
    "olmo2": {},
    "olmoe": {},
    "stablelm": {},
    "starcoder2": {},
    "cohere": {},
    "granite": {},
    "codegen": {"rotary_dim": 8},
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "smollm3": {},
    "gpt_oss": {},
}
MASKED = {
    "bert": {},
    "roberta": {},
    "distilbert": {},
    "albert": {},
    "electra": {},
    "deberta": {},
    "deberta-v2": {},
    "mpnet": {},
    "xlm-roberta": {},
    "camembert": {},
    "fnet": {},
    "modernbert": {},
    "squeezebert": {},
    "convbert": {},
    "roformer": {},
}
TRANSLATORS = {
    "t5": {"decoder_start_token_id": 0},
    "bart": {},
    "mbart": {},
    "pegasus": {},
    "marian": {"decoder_start_token_id": 1, "decoder_vocab_size": 120},
    "blenderbot-small": {},
    "longt5": {"decoder_start_token_id": 0},
}
IMAGES = {
    "vit": {},
    "beit": {},
    "convnext": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "dinov2": {},
    "swin": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
        "image_size": 32,
        "patch_size": 4,
    },
    "segformer": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1]},
    "resnet": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8},
    "poolformer": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
}
_WAVES = {
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "feat_proj_dropout": 0.0,
}
SPEECH = dict.fromkeys(("wav2vec2", "hubert"), _WAVES)


def cases() -> Iterator[Case]:
    """Decoders, encoders, encoder-decoders, images and speech."""
    groups: list[tuple[Mapping[str, Any], str, Callable[..., Any]]] = [
        (DECODERS, "AutoModelForCausalLM", _text),
        (MASKED, "AutoModelForMaskedLM", _text),
        (TRANSLATORS, "AutoModelForSeq2SeqLM", _pairs),
        (IMAGES, "AutoModelForImageClassification", _pictures),
        (SPEECH, "AutoModelForCTC", _waves),
    ]
    for listed, head, batch in groups:
        for name, settings in listed.items():
            yield Case("transformers", name, partial(_made, name, settings, head, batch))
    yield Case(
        "transformers", "bert classifier", partial(_made, "bert", {}, "AutoModelForSequenceClassification", _sentences)
    )
    yield Case("transformers", "deit", partial(_made, "deit", {}, "DeiTForImageClassification", _pictures))
    yield Case("transformers", "clip", _clip)
    yield Case("transformers", "whisper", _whisper)
    for name in SPEECH:
        yield Case("transformers", f"{name}, labels outside", partial(_speech, name))
    for kind, (base, settings) in ADAPTERS.items():
        yield Case("peft", f"{base} with {kind.removesuffix('Config')}", partial(_adapted, base, kind, settings))


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoraConfig": ("llama", {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0}),
    "IA3Config": ("opt", {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}),
    "VeraConfig": ("mistral", {"r": 4, "target_modules": ["q_proj", "o_proj"]}),
    "PromptTuningConfig": ("gpt2", {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}),
    "PrefixTuningConfig": ("qwen2", {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}),
}
"""peft's configurations: the model that is adapted, and their settings."""


def _config(name: str, settings: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    bare = AutoConfig.for_model(name)
    other_names = type(bare).attribute_map
    known = {k: v for k, v in SMALL.items() if hasattr(bare, k) and other_names.get(k, k) not in settings}
    derived = {k for k in known if isinstance(getattr(type(bare), k, None), property)}
    chosen = {k: v for k, v in known.items() if k not in derived} | {"num_labels": SMALL["num_labels"]}
    return AutoConfig.for_model(name, **{**chosen, **settings})


def _made(name: str, settings: Mapping[str, Any], head: str, batch: Callable[..., Any]) -> Made:
    import transformers

    config = _config(name, settings)
    kind = getattr(transformers, head)
    module = kind.from_config(config) if head.startswith("Auto") else kind(config)
    return module, lambda out: out.loss, (batch(config), None)


def _text(_config: Any) -> dict[str, Any]:
    import torch

    ids = torch.randint(3, 120, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def _sentences(_config: Any) -> dict[str, Any]:
    import torch

    return {**_text(None), "labels": torch.tensor([1, 0])}


def _pairs(_config: Any) -> dict[str, Any]:
    import torch

    labels = torch.randint(3, 120, (2, 8))
    labels[1, 5:] = -100
    text = _text(None)
    return {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"], "labels": labels}


def _pictures(config: Any) -> dict[str, Any]:
    import torch

    side = config.image_size if isinstance(getattr(config, "image_size", None), int) else 32
    return {"pixel_values": torch.randn(8, 3, side, side), "labels": torch.arange(8) % SMALL["num_labels"]}


def _waves(_config: Any) -> dict[str, Any]:
    import torch

    return {"input_values": torch.randn(2, 400), "labels": torch.randint(3, 30, (2, 5))}


def _clip() -> Made:
    import torch
    from transformers import CLIPConfig, CLIPModel

    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 120,
        "max_position_embeddings": 32,
        "eos_token_id": 2,
    }
    image = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    module = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=16))
    given = _text(None)
    batch = {
        "input_ids": given["input_ids"],
        "attention_mask": given["attention_mask"],
        "pixel_values": torch.randn(2, 3, 32, 32),
    }

    class Contrastive(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any) -> Any:
            return self.inner(input_ids, pixel_values, attention_mask, return_loss=True)

    return Contrastive(), lambda out: out.loss, (batch, None)


def _whisper() -> Made:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    known = {k: v for k, v in SMALL.items() if hasattr(WhisperConfig(), k)}
    config = WhisperConfig(
        **{
            **known,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
        }
    )
    batch = {"input_features": torch.randn(2, 8, 32), "labels": torch.randint(3, 120, (2, 8))}
    return WhisperForConditionalGeneration(config), lambda out: out.loss, (batch, None)


def _speech(name: str) -> Made:
    """The loss that the model would compute, which looks at the values of labels before."""
    import torch
    from transformers import AutoModelForCTC

    config = _config(name, SPEECH[name])
    batch = _waves(config)
    labels = batch.pop("labels")

    def loss(out: Any, labels: Any) -> Any:
        rates = out.logits.log_softmax(-1).transpose(0, 1)
        lengths = torch.full((rates.shape[1],), rates.shape[0]), torch.full((rates.shape[1],), labels.shape[1])
        return torch.nn.functional.ctc_loss(rates, labels, *lengths, blank=0, reduction=config.ctc_loss_reduction)

    return AutoModelForCTC.from_config(config), loss, (batch, labels)


def _adapted(base: str, kind: str, settings: Mapping[str, Any]) -> Made:
    import peft
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(_config(base, {}))
    return peft.get_peft_model(module, getattr(peft, kind)(**settings)), lambda out: out.loss, (_text(None), None)
