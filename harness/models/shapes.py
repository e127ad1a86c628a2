"""Named configurations without weights (`random:<shape>`): speed, FLOPs and memory can be measured with no download.

The weights are random numbers of the usual size, so that no kernel meets denormal or infinite values; the text such a model
produces means nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from harness.errors import BadInput, near

PREFIX = "random:"
_PIECE = 1 << 22


def _opt(width: int, depth: int, heads: int, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": "opt", "vocab_size": 50272, "hidden_size": width, "word_embed_proj_dim": width,
        "num_hidden_layers": depth, "num_attention_heads": heads, "ffn_dim": 4 * width, "max_position_embeddings": 2048,
        **changes,
    }  # fmt: skip


def _gated(
    family: str,
    width: int,
    depth: int,
    heads: int,
    kv_heads: int,
    feed: int,
    vocabulary: int,
    positions: int,
    **changes: Any,
) -> dict[str, Any]:
    return {
        "model_type": family, "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": depth,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": feed,
        "max_position_embeddings": positions, **changes,
    }  # fmt: skip


def _pythia(width: int, depth: int, heads: int, vocabulary: int = 50304) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox", "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": depth,
        "num_attention_heads": heads, "intermediate_size": 4 * width, "rotary_pct": 0.25, "max_position_embeddings": 2048,
    }  # fmt: skip


_LLAMA3 = {"rope_theta": 500000.0}

SHAPES: dict[str, dict[str, Any]] = {
    "opt-e2e-mini": _opt(128, 24, 4, vocab_size=2048, max_position_embeddings=256),
    "opt-125m": _opt(768, 12, 12),
    "opt-350m": _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "opt-13b": _opt(5120, 40, 40),
    "llama-2-7b": _gated("llama", 4096, 32, 32, 32, 11008, 32000, 4096),
    "llama-2-13b": _gated("llama", 5120, 40, 40, 40, 13824, 32000, 4096),
    "llama-3-8b": _gated("llama", 4096, 32, 32, 8, 14336, 128256, 8192, **_LLAMA3),
    "llama-3.2-1b": _gated("llama", 2048, 16, 32, 8, 8192, 128256, 8192, tie_word_embeddings=True, **_LLAMA3),
    "smollm2-135m": _gated("llama", 576, 30, 9, 3, 1536, 49152, 8192, tie_word_embeddings=True, rope_theta=100000.0),
    "mistral-7b": _gated("mistral", 4096, 32, 32, 8, 14336, 32000, 32768, sliding_window=4096),
    "qwen2.5-0.5b": _gated("qwen2", 896, 24, 14, 2, 4864, 151936, 32768, tie_word_embeddings=True),
    "qwen2.5-7b": _gated("qwen2", 3584, 28, 28, 4, 18944, 152064, 32768),
    "qwen3-0.6b": _gated("qwen3", 1024, 28, 16, 8, 3072, 151936, 40960, head_dim=128, tie_word_embeddings=True),
    "phi-3-mini": _gated("phi3", 3072, 32, 32, 32, 8192, 32064, 4096, pad_token_id=32000),
    "gpt2": {"model_type": "gpt2"},
    "gpt2-xl": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25},
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-1.4b": _pythia(2048, 24, 16),
    "pythia-6.9b": _pythia(4096, 32, 32, 50432),
    "bloom-7b1": {"model_type": "bloom", "vocab_size": 250880, "hidden_size": 4096, "n_layer": 30, "n_head": 32},
    "bloom-560m": {"model_type": "bloom", "vocab_size": 250880, "hidden_size": 1024, "n_layer": 24, "n_head": 16},
}


def is_random(name: str) -> bool:
    """Whether a model name asks for a shape without weights."""
    return name.startswith(PREFIX)


def check_shape(name: str) -> str:
    """The shape that `random:<shape>` names, or BadInput with near ones."""
    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise BadInput(f"model: no shape named {shape!r}; {near(shape, SHAPES)}")
    return shape


def build(name: str, dtype: torch.dtype, device: str, seed: int = 0) -> Any:
    """A transformers model of the shape with random weights, the same for the same seed."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    settings = dict(SHAPES[check_shape(name)])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device(device), no_init_weights():
        source = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_PIECE, generator=generator).mul_(0.02).to(dtype).to(device).repeat(2)
    with torch.no_grad():
        for number, (place, parameter) in enumerate(source.named_parameters()):
            if parameter.dim() == 1:
                parameter.fill_(0.0 if place.endswith("bias") else 1.0)
                continue
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), _PIECE):
                part = flat[start : start + _PIECE]
                shift = (number * 7919 + start // _PIECE * 104729) % _PIECE
                part.copy_(noise[shift : shift + part.numel()])
    return source
