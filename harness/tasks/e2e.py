"""E2E NLG challenge: one to three sentences about a restaurant from its meaning representation (crowd-sourced references)."""

from __future__ import annotations

from typing import ClassVar

from harness.errors import BadInput
from harness.tasks.base import Example, Task, check_request, collapse, parse_mr
from harness.tasks.bertscore import BertScore
from harness.tasks.e2e_slots import states
from harness.tasks.files import Source
from harness.tasks.metrics import Bleu, Metric, Rouge1, Rouge2, RougeL, SlotErrorRate

SOURCE = Source(
    task="e2e",
    columns=("mr", "ref"),
    # The official release's names, and those of its tokenised copies.
    files={
        "train": ("train.csv", "trainset.csv"),
        "validation": ("dev.csv", "devset.csv", "validation.csv"),
        "test": ("test.csv", "testset_w_refs.csv"),
    },
    hub="tuetschek/e2e_nlg",
    # The repository itself holds a loading script, which today's `datasets` refuses; the hub keeps a converted copy here.
    revision="refs/convert/parquet",
    hub_columns=("meaning_representation", "human_reference"),
    rows={"train": 42061, "validation": 4672, "test": 4693},
)


class E2E(Task):
    """Restaurant descriptions; every meaning representation with all its references.

    Read from the official CSV files (columns `mr,ref`) under ``--data``, else from the hub data set `e2e_nlg`. The prompt is the
    meaning representation with its white space collapsed, then a line feed; none is cut.
    """

    name: ClassVar[str] = "e2e"
    description: ClassVar[str] = "E2E NLG challenge: restaurant descriptions from meaning representations"
    source: ClassVar[str] = "Novikova, Dusek, Rieser, SIGDIAL 2017, arXiv:1706.09254; CC BY-SA 4.0"
    max_new_tokens: ClassVar[int] = 96
    rows_from: ClassVar[Source | None] = SOURCE
    planned_examples: ClassVar[dict[str, int]] = {"train": 4862, "validation": 547, "test": 630}

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Return the examples of ``split``; see Task. Meaning representations come in order of first appearance."""
        check_request(split, limit)
        references: dict[str, list[str]] = {}
        slots: dict[str, tuple[tuple[str, str], ...]] = {}
        for place, (raw_mr, reference) in SOURCE.read(self.data, split):
            mr = collapse(raw_mr)
            if mr not in slots:
                try:
                    slots[mr] = parse_mr(mr)
                except ValueError as error:
                    message = f"{place}: {error}; a meaning representation reads slot[value], slot[value]"
                    raise BadInput(message) from None
            references.setdefault(mr, []).append(collapse(reference))
        chosen = list(references)[:limit]
        return [
            Example(f"e2e-{split}-{i:04d}", f"{mr}\n", tuple(references[mr]), slots[mr]) for i, mr in enumerate(chosen)
        ]

    def metrics(self) -> tuple[Metric, ...]:
        """Return BLEU, ROUGE-L, slot error rate, ROUGE-1 and ROUGE-2."""
        return Bleu(), RougeL(), SlotErrorRate(states), Rouge1(), Rouge2()

    def extra_metrics(self) -> tuple[Metric, ...]:
        """Return BERTScore."""
        return (BertScore(),)
