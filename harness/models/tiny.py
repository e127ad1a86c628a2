"""Tiny random models built in code, one layout per family: what invariants are checked on. Nothing is loaded or stored."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.models.decoder import Decoder
from harness.models.load import load_model

VOCABULARY = 97
EOS = 1


TINY: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
}
GATED: dict[str, object] = {**TINY, "intermediate_size": 64, "num_key_value_heads": 2, "tie_word_embeddings": False}
# One small configuration for every family: transformers' model_type -> settings beside the depth.
FAMILY_SETTINGS: dict[str, dict[str, object]] = {
    "opt": {
        **{key: value for key, value in TINY.items() if key != "initializer_range"},
        "init_std": 0.2,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "dropout": 0.0,
    },
    "llama": GATED,
    "mistral": {**GATED, "sliding_window": 5},
    "qwen2": {**GATED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "qwen3": {**GATED, "head_dim": 16},
    "gemma2": {
        **GATED,
        "tie_word_embeddings": True,
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 8.0,
    },
    "gemma3_text": {
        **GATED,
        "tie_word_embeddings": True,
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "sliding_window": 5,
        "sliding_window_pattern": 3,
    },
    "phi3": {**GATED, "partial_rotary_factor": 0.5, "sliding_window": 7},
    "gpt2": TINY,
    "gpt_neox": {**TINY, "intermediate_size": 64, "rotary_pct": 0.5},
    "bloom": {**TINY, "seq_length": 64},
}


def tiny(family: str, seed: int = 0, depth: int = 6, **changes: object) -> Decoder:
    """A random model whose predictions depend on every weight, with a probe that fires for about half of all states."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {**FAMILY_SETTINGS[family], "num_hidden_layers": depth, **changes}
    config = AutoConfig.for_model(family, **settings)
    source = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in source.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    decoder = load_model(source)
    width = decoder.geometry.width
    decoder.extras = {"calm_probe.weight": torch.randn(1, width) * 0.3, "calm_probe.bias": torch.zeros(1)}
    return decoder


def tiny_opt(seed: int = 0, depth: int = 6, **changes: object) -> Decoder:
    """The OPT among them."""
    return tiny("opt", seed, depth, **changes)


# Every supported layout that differs in more than numbers; the contract suite runs over the first four.
MODELS: dict[str, Callable[[], Decoder]] = {
    "opt": lambda: tiny("opt"),
    "opt-350m": lambda: tiny("opt", do_layer_norm_before=False, word_embed_proj_dim=16),
    "llama": lambda: tiny("llama"),
    "gpt_neox": lambda: tiny("gpt_neox"),
    "mistral": lambda: tiny("mistral", depth=4),
    "qwen2": lambda: tiny("qwen2", depth=4),
    "qwen3": lambda: tiny("qwen3", depth=4),
    "gemma2": lambda: tiny("gemma2", depth=4),
    "gemma3_text": lambda: tiny("gemma3_text", depth=4),
    "phi3": lambda: tiny("phi3", depth=4),
    "gpt2": lambda: tiny("gpt2", depth=4),
    "bloom": lambda: tiny("bloom", depth=4),
}
CONTRACT = ("opt", "opt-350m", "llama", "gpt_neox")


def ragged_prompts(rows: int = 3, width: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded prompts of unequal length: ids and mask [rows, width]; row 0 fills the width."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (rows, width), generator=generator)
    lengths = torch.tensor([width, *(2 + 3 * i for i in range(rows - 1))]).clamp_max(width)
    mask = (torch.arange(width) >= (width - lengths).unsqueeze(1)).long()
    return ids * mask, mask
