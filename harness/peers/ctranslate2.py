"""CTranslate2 as a peer, in a process without torch: next to torch's OpenMP runtime its threads are slowed down by factors."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from typing import Any

from harness.errors import BadInput, CellFailed

NAME = "ctranslate2"


class CTranslate2:
    """The same weights, converted; runs in this process, which must not import torch.

    Args:
        model: anything `load_model` takes.
        dtype: float32.
        device: cpu.
        threads: CPU threads.
    """

    def __init__(self, model: str, dtype: str, device: str, threads: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            context = multiprocessing.get_context("spawn")
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_convert, args=(theirs, model, dtype, device, folder))
            process.start()
            theirs.close()
            try:
                kind, value = mine.recv()
            except EOFError:
                raise CellFailed("the conversion died; out of memory?") from None
            process.join()
            if kind == "bad":
                raise BadInput(value)
            self.sizes: dict[str, int] = value
            import ctranslate2

            self._generator = ctranslate2.Generator(
                folder, device="cpu", compute_type="float32", intra_threads=threads, inter_threads=1
            )

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuation of prompts [B][P], end tokens ignored: [B][new_tokens]."""
        found = self._generator.generate_batch(
            [[str(token) for token in row] for row in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            end_token="0",  # padding, which is never generated: the real end token is a token like any other
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in found]

    def profile(self, prompts: Any, new_tokens: int) -> None:
        """Nothing is known of its steps."""


def _convert(pipe: Any, model: str, dtype: str, device: str, folder: str) -> None:
    from harness.peers.engines import convert_for_ctranslate2

    try:
        pipe.send(("ok", convert_for_ctranslate2(model, dtype, device, folder)))
    except BadInput as error:
        pipe.send(("bad", str(error)))
