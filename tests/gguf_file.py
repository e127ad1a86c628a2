"""A small GGUF file, made in code."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np


def tiny_gguf(
    file: Path,
    merges: Sequence[str] = ("! #",),
    *,
    more: Mapping[str, tuple[int, ...]] | None = None,
    without: Collection[str] = (),
    not_finite: str = "",
    end: int = 1,
    says: Mapping[str, str | int] | None = None,
    **changes: float,
) -> Path:
    """A Llama of two blocks with random weights as a GGUF file, with a vocabulary of single characters; needs the package gguf.

    Args:
        file: where it goes.
        merges: of the tokenizer.
        more: further tensors, and their shapes.
        without: tensors that are left out.
        not_finite: a tensor whose first number is NaN.
        end: the end token.
        says: further fields of the header.
        changes: numbers of the header in place of the usual ones.
    """
    import gguf

    depth, width, heads, kv_heads, feed = 2, 64, 4, 2, 96
    words = [
        *map(chr, range(33, 127)),
        "\u0120",
        "\u010a",
        "!#",
    ]  # printable ones, space and line feed as GPT-2 writes them
    vocabulary = len(words)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(file), "llama")
    for name, value in (
        *(("block_count", depth), ("context_length", 128), ("embedding_length", width), ("feed_forward_length", feed)),
        *(("head_count", heads), ("head_count_kv", kv_heads), ("vocab_size", vocabulary)),
        *(("rope_dimension_count", width // heads), ("rope_freq_base", 10000.0), ("layer_norm_rms_eps", 1e-5)),
    ):
        getattr(writer, f"add_{name}")(changes.get(name, value))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(end)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")

    for key, said in (says or {}).items():
        (writer.add_string if isinstance(said, str) else writer.add_uint16)(key, said)  # type: ignore[operator]

    def add(name: str, *shape: int) -> None:
        scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
        values = rng.standard_normal(shape) * scale if len(shape) > 1 else np.ones(shape)
        if name == not_finite:
            values.flat[0] = np.nan
        if name not in without:
            writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    add("token_embd", vocabulary, width)
    add("output", vocabulary, width)
    add("output_norm", width)
    for name, given in (more or {}).items():
        add(name, *given)
    for i in range(depth):
        kv = width // heads * kv_heads
        for name, shape in (
            *(("attn_norm", (width,)), ("ffn_norm", (width,)), ("attn_q", (width, width)), ("attn_k", (kv, width))),
            *(("attn_v", (kv, width)), ("attn_output", (width, width)), ("ffn_gate", (feed, width))),
            *(("ffn_up", (feed, width)), ("ffn_down", (width, feed))),
        ):
            add(f"blk.{i}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
