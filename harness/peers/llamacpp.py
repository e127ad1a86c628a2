"""llama.cpp as a peer, in a process without torch: rows of a batch are its sequences, decoded together, greedy."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, CellFailed
from harness.models import named

NAME = "llamacpp"
_ALL_F32 = 0
"""`LLAMA_FTYPE_ALL_F32`: its own conversion of any GGUF to single precision."""


class LlamaCpp:
    """The same weights in single precision, as its own tool writes them; runs in this process, which must not import torch.

    Args:
        model: a `.gguf` file, or a name that stands for one.
        dtype: float32.
        device: cpu.
        threads: CPU threads.
    """

    def __init__(self, model: str, dtype: str, device: str, threads: int) -> None:
        if model in named.NAMED:
            model = str(named.fetch(model))
        if Path(model).suffix != ".gguf":
            raise BadInput("llamacpp: reads GGUF files alone; give --model path/to/file.gguf")
        if dtype != "float32" or device != "cpu":
            raise BadInput(f"llamacpp: compared in float32 on the CPU, not in {dtype} on {device}")
        try:
            import llama_cpp
        except ImportError:
            raise BadInput(
                "llama-cpp-python is not installed; install the extra: pip install 'depthbench[llamacpp]'"
            ) from None
        self._cpp: Any = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        with tempfile.TemporaryDirectory() as folder:
            single = Path(folder) / "single.gguf"
            how = llama_cpp.llama_model_quantize_default_params()
            how.ftype, how.allow_requantize, how.nthread = _ALL_F32, True, threads
            if llama_cpp.llama_model_quantize(model.encode(), str(single).encode(), ctypes.byref(how)):
                raise CellFailed(f"llama.cpp could not convert {model} to F32")
            # Read whole, not mapped: the file goes away.
            settings = llama_cpp.llama_model_default_params()
            settings.use_mmap = False
            self._model = llama_cpp.llama_model_load_from_file(str(single).encode(), settings)
        if not self._model:
            raise CellFailed(f"llama.cpp could not load {model}")
        self._threads = threads
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self.sizes = {"vocabulary": self._vocabulary, "max_positions": llama_cpp.llama_model_n_ctx_train(self._model)}
        self._context: Any = None
        self._shape = (0, 0)

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuation of prompts [B][P], end tokens ignored: [B][new_tokens]."""
        cpp, rows, width = self._cpp, len(prompts), len(prompts[0])
        self._reserve(rows, width + new_tokens)
        cpp.llama_memory_clear(cpp.llama_get_memory(self._context), False)
        tokens = self._decode(
            [(t, at, row, at == width - 1) for row, p in enumerate(prompts) for at, t in enumerate(p)]
        )
        out = [[token] for token in tokens]
        for step in range(new_tokens - 1):
            tokens = self._decode([(token, width + step, row, True) for row, token in enumerate(tokens)])
            for row, token in enumerate(tokens):
                out[row].append(token)
        return out

    def profile(self, prompts: Any, new_tokens: int) -> None:
        """Nothing is known of its steps."""

    def _reserve(self, rows: int, length: int) -> None:
        """A context with room for so many sequences of so many tokens."""
        if self._context is not None and self._shape[0] == rows and self._shape[1] >= length:
            return
        cpp = self._cpp
        if self._context is not None:
            cpp.llama_free(self._context)
        settings = cpp.llama_context_default_params()
        length = max(length, self._shape[1] if self._shape[0] == rows else 0)
        settings.n_ctx, settings.n_batch, settings.n_ubatch = rows * max(256, length), rows * length, 512
        settings.n_seq_max, settings.n_threads, settings.n_threads_batch = rows, self._threads, self._threads
        settings.type_k = settings.type_v = 0  # single precision, as everywhere else
        self._context = cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise CellFailed(f"llama.cpp has no room for {rows} sequences of {length} tokens")
        self._shape = (rows, length)

    def _decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Process (token, position, row, wanted) and return the likeliest next token of the wanted ones, in order."""
        import numpy as np

        cpp = self._cpp
        batch = cpp.llama_batch_init(len(entries), 0, 1)
        try:
            batch.n_tokens = len(entries)
            for i, (token, position, row, wanted) in enumerate(entries):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
                batch.seq_id[i][0] = row
            if cpp.llama_decode(self._context, batch):
                raise CellFailed("llama.cpp could not decode")
            found = []
            for i, entry in enumerate(entries):
                if entry[3]:
                    logits = cpp.llama_get_logits_ith(self._context, i)
                    found.append(int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax()))
            return found
        finally:
            cpp.llama_batch_free(batch)
