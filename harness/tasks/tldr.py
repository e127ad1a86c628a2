"""Reddit TL;DR: posts with the one-line summary their authors wrote."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from harness.tasks.base import Example, Task, check_request, collapse
from harness.tasks.bertscore import BertScore
from harness.tasks.files import Source
from harness.tasks.metrics import Bleu, Metric, Rouge1, Rouge2, RougeL

SOURCE = Source(
    task="tldr",
    columns=("prompt", "completion"),
    files={
        "train": ("train.jsonl", "train.csv"),
        "validation": ("validation.jsonl", "validation.csv"),
        "test": ("test.jsonl", "test.csv"),
    },
    hub="trl-lib/tldr",
    hub_columns=("prompt", "completion"),
    rows={"train": 116722, "validation": 6447, "test": 6553},
)
SUFFIX = "TL;DR:"


class Tldr(Task):
    """Summaries of Reddit posts.

    Read from JSON-lines or CSV files (`prompt,completion`) under ``--data``, else from the hub data set `trl-lib/tldr`: the
    filtered posts of Stiennon et al. 2020, taken from Webis-TLDR-17, in three splits. SkipDecode's paper says Reddit-TLDR; which
    collection and which splits it means could not be read.

    Prompt: the post as the data set gives it (subreddit, title, text), a blank line, `TL;DR:`. The paper's form could not be
    read. Truncation: a post that makes the prompt longer than `max_prompt_tokens` loses words from its end; `TL;DR:` stays.
    """

    name: ClassVar[str] = "tldr"
    description: ClassVar[str] = "Reddit TL;DR: one-line summaries of posts (filtered Webis-TLDR-17)"
    source: ClassVar[str] = (
        "Stiennon et al. 2020, arXiv:2009.01325, from Voelske et al. 2017 (Webis-TLDR-17, CC BY 4.0); no data is bundled"
    )
    max_new_tokens: ClassVar[int] = 64
    max_prompt_tokens: ClassVar[int | None] = 512
    rows_from: ClassVar[Source | None] = SOURCE
    planned_examples: ClassVar[dict[str, int]] = SOURCE.rows
    planned_tokens: ClassVar[tuple[int, int]] = (350, 35)

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Return the examples of ``split``; see Task."""
        check_request(split, limit)
        found = []
        for i, (_, (post, summary)) in enumerate(islice(SOURCE.read(self.data, split), limit)):
            # Some collections end the post with the cue already.
            body = post.strip().removesuffix(SUFFIX).rstrip()
            found.append(
                Example(f"tldr-{split}-{i:05d}", f"{body}\n\n{SUFFIX}", (collapse(summary),), cut=(0, len(body)))
            )
        return found

    def metrics(self) -> tuple[Metric, ...]:
        """Return ROUGE-L, ROUGE-1, ROUGE-2 and BLEU."""
        return RougeL(), Rouge1(), Rouge2(), Bleu()

    def extra_metrics(self) -> tuple[Metric, ...]:
        """Return BERTScore."""
        return (BertScore(),)
