"""CNN/DailyMail: news articles with the highlights their editors wrote (version 3.0.0, not anonymised)."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from harness.tasks.base import Example, Task, check_request, collapse
from harness.tasks.bertscore import BertScore
from harness.tasks.files import Source
from harness.tasks.metrics import Bleu, Metric, Rouge1, Rouge2, RougeL

SOURCE = Source(
    task="cnn_dm",
    columns=("article", "highlights"),
    files={
        "train": ("train.csv", "train.jsonl"),
        "validation": ("validation.csv", "validation.jsonl"),
        "test": ("test.csv", "test.jsonl", "test_500.csv"),
    },
    hub="abisee/cnn_dailymail",
    config="3.0.0",
    hub_columns=("article", "highlights"),
    rows={"train": 287113, "validation": 13368, "test": 11490},
)
PREFIX, SUFFIX = "Summarize the following article:\n\n", "\n\nSummary:"


class CnnDm(Task):
    """Summaries of news articles.

    Read from CSV or JSON-lines files (`article,highlights`) under ``--data``, else from the hub data set `cnn_dailymail`.

    Prompt: that of lm-eval's `cnn_dailymail`, `Summarize the following article:`, the article, `Summary:`. The papers whose
    tables use this data do not state theirs where it could be read (SkipDecode, CALM), or put an example in front (LayerSkip).
    Truncation: an article that makes the prompt longer than `max_prompt_tokens` loses words from its end; the instruction
    stays whole. How the papers cut is not stated either. The reference is the highlights in one line.
    """

    name: ClassVar[str] = "cnn_dm"
    description: ClassVar[str] = "CNN/DailyMail 3.0.0: highlights of news articles"
    source: ClassVar[str] = (
        "Hermann et al. 2015, arXiv:1506.03340; See, Liu, Manning 2017, arXiv:1704.04368; card says Apache-2.0"
    )
    max_new_tokens: ClassVar[int] = 128
    max_prompt_tokens: ClassVar[int | None] = 1024
    rows_from: ClassVar[Source | None] = SOURCE
    planned_examples: ClassVar[dict[str, int]] = SOURCE.rows
    planned_tokens: ClassVar[tuple[int, int]] = (760, 70)

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Return the examples of ``split``; see Task."""
        check_request(split, limit)
        found = []
        for i, (_, (article, highlights)) in enumerate(islice(SOURCE.read(self.data, split), limit)):
            body = article.strip()
            prompt = f"{PREFIX}{body}{SUFFIX}"
            cut = (len(PREFIX), len(PREFIX) + len(body))
            found.append(Example(f"cnn_dm-{split}-{i:05d}", prompt, (collapse(highlights),), cut=cut))
        return found

    def metrics(self) -> tuple[Metric, ...]:
        """Return ROUGE-L, ROUGE-1, ROUGE-2 and BLEU."""
        return RougeL(), Rouge1(), Rouge2(), Bleu()

    def extra_metrics(self) -> tuple[Metric, ...]:
        """Return BERTScore."""
        return (BertScore(),)
