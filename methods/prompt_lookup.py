"""Prompt lookup: what followed the newest tokens the first time they occurred is drafted again. No model drafts.

Paper: none; Saxena, "Prompt Lookup Decoding", 2023, github.com/apoorvumang/prompt-lookup-decoding. Every method that drafts
with the model has to beat it. Independent timings: Spec-Bench (Xia et al. 2024, arXiv:2401.07851), where it stands as PLD.
Several levels of n-grams over the text so far are also what ANPD does (Ou et al. 2024, arXiv:2404.08698; its exact rule was
not read).

Rule. For n = max_ngram, ..., 1: find the first earlier place of the text so far (prompt and output) where the last n tokens occur
and `draft_tokens` tokens follow; draft these. Nothing found: a plain step. The full model verifies all of them at once.

Deviations. `window=part` drafts as many tokens as follow, as later implementations do; their rule for ties (the newest place, not
the first) is `tie=last`. The original wants the whole window and the first place: the defaults. Batches: every row looks up its own
text, and a step is as wide as the longest draft among them. Chains only.

Cost: the columns verified beside the newest token, and a table of n-grams on the host that grows by the new tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import override

from harness.method import Draft, Start


@dataclass(frozen=True)
class PromptLookup(Draft):
    """Drafts from the text so far.

    Parameters:
        draft_tokens: tokens drafted per step, d.
        max_ngram: longest run of tokens that is looked up; shorter ones follow.
        window: `full` drafts d tokens or nothing; `part` as many as follow.
        tie: which of several places counts, `first` or `last`.
    """

    name: ClassVar[str] = "prompt_lookup"
    title: ClassVar[str] = "Prompt lookup"
    paper: ClassVar[str] = "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding"
    skipped_kv: ClassVar[str] = "nothing is skipped: drafts come from the text"

    draft_tokens: int = 10
    max_ngram: int = 3
    window: str = "full"
    tie: str = "first"

    def __post_init__(self) -> None:
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("max_ngram", self.max_ngram >= 1, "1 or more")
        self._require("window", self.window in ("full", "part"), "full or part")
        self._require("tie", self.tie in ("first", "last"), "first or last")

    @override
    def begin(self, start: Start) -> list[_Text]:
        """The text of every row."""
        rows = zip(start.prompts.tolist(), start.lengths.tolist(), strict=True)
        return [_Text(self, prompt[len(prompt) - length :]) for prompt, length in rows]

    @override
    def propose(self, new: Sequence[Sequence[int]], memory: Any) -> list[list[int]]:
        for text, tokens in zip(memory, new, strict=True):
            text.add(tokens)
        return [text.continued() for text in memory]


@dataclass
class _Text:
    """A row's text so far.

    Attributes:
        rule: the method's parameters.
        ids: prompt and output.
        ends: for every n-gram the place after it (the first or the last of its places that may be drafted from).
    """

    rule: PromptLookup
    ids: list[int]
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    done: int = 0

    def add(self, new: Sequence[int]) -> None:
        """Take new tokens, and enter the n-grams that something has followed by now."""
        self.ids += new
        # A place counts once enough tokens follow it.
        wanted = self.rule.draft_tokens if self.rule.window == "full" else 1
        end = len(self.ids) - wanted
        for place in range(self.done + 1, end + 1):
            for n in range(1, min(self.rule.max_ngram, place) + 1):
                key = tuple(self.ids[place - n : place])
                if self.rule.tie == "last" or key not in self.ends:
                    self.ends[key] = place
        self.done = max(self.done, end)

    def continued(self) -> list[int]:
        """The tokens that followed the newest ones before; none where nothing is found."""
        for n in range(min(self.rule.max_ngram, len(self.ids) - 1), 0, -1):
            place = self.ends.get(tuple(self.ids[-n:]))
            if place is not None:
                return self.ids[place : place + self.rule.draft_tokens]
        return []
