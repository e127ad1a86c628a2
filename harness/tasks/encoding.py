"""Text to tokens, one way for all that score or continue text: `depthbench score`, lm-eval's tasks, and their few-shot prompts.

The border between a context and its continuation is lm-eval's (`TemplateLM._encode_pair`): white space at the end of the context
belongs to the continuation, both are encoded together, and what goes beyond the context's own tokens is the continuation.

A context that has no token (it is empty, or holds nothing but white space) is the prefix token: the tokenizer's BOS, else its EOS.
A continuation that begins with that token is not given it twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import BadInput


@dataclass(frozen=True)
class Encoding:
    """How a tokenizer encodes texts.

    Attributes:
        tokenizer: a transformers tokenizer.
        prefix: token that stands for a context without one.
        add_special_tokens: whether texts get what the tokenizer adds (a BOS, for one); None: as the tokenizer does by itself.
    """

    tokenizer: Any
    prefix: int
    add_special_tokens: bool | None = None

    @staticmethod
    def of(tokenizer: Any, model: str, prefix: int | None = None, add_special_tokens: bool | None = None) -> Encoding:
        """The encoding of a model's tokenizer; BadInput where there is none, or nothing that can stand for an empty context."""
        if tokenizer is None:
            raise BadInput(f"model: {model} has no tokenizer; save one beside the weights")
        first = next((i for i in (prefix, tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
        if first is None:
            raise BadInput(f"model: the tokenizer of {model} has neither a BOS nor an EOS token for empty contexts")
        return Encoding(tokenizer, int(first), add_special_tokens)

    @cached_property
    def _prefix_text(self) -> str:
        return str(self.tokenizer.decode(self.prefix))

    def text(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Tokens of a text; one that begins with the prefix token's text gets no second one from the tokenizer."""
        special = self.add_special_tokens if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and text.startswith(self._prefix_text):
            special = False
        chosen = {} if special is None else {"add_special_tokens": special}
        return list(self.tokenizer.encode(text, **chosen))

    def prompt(self, text: str) -> list[int]:
        """Tokens of a text to go on from, at least one."""
        return self.text(text) or [self.prefix]

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of a context, at least one, and of its continuation: none where it adds no token of its own."""
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        before = self.text(bare) if bare else []
        if before:
            return before, self.text(bare + continuation)[len(before) :]
        rest = self.text(bare + continuation, add_special_tokens=False)
        return [self.prefix], rest[1:] if rest[:1] == [self.prefix] else rest

    def whole(self, text: str) -> list[int]:
        """Tokens of a text that is scored after the prefix token: without the one that the tokenizer puts there."""
        tokens = self.text(text)
        return tokens[1:] if tokens[:1] == [self.prefix] else tokens
