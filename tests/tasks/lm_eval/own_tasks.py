"""Three small lm-eval tasks of a user's own, and their data."""

from __future__ import annotations

import json
from pathlib import Path

CHOICE = """
task: tiny_choice
dataset_path: nobody/tiny_facts
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
metric_list:
  - metric: acc
  - metric: acc_norm
metadata: {version: 2.0}
"""
LAST = """
task: tiny_last
dataset_path: nobody/tiny_facts
output_type: loglikelihood
test_split: test
doc_to_text: "{{question}}"
doc_to_target: " {{choices[gold]}}"
metric_list:
  - metric: perplexity
  - metric: acc
"""
WRITE = """
task: tiny_write
dataset_path: nobody/tiny_facts
output_type: generate_until
training_split: train
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list:
  - metric: exact_match
"""
FACTS = [
    {
        "question": f"How many {what} are in the basket by the river?",
        "choices": ["two eggs", "twelve", "no food at all"],
        "gold": i % 3,
    }
    for i, what in enumerate(("eggs", "dogs", "foxes", "families", "restaurants", "rivers"))
]


def write(root: Path) -> tuple[Path, Path]:
    """Folders of the task files and of their data."""
    tasks, data = root / "tasks", root / "data"
    (data / "lm_eval" / "tiny_facts").mkdir(parents=True)
    (data / "lm_eval" / "tiny_facts" / "test.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    tasks.mkdir()
    for name, text in (("choice", CHOICE), ("last", LAST), ("write", WRITE)):
        (tasks / f"{name}.yaml").write_text(text)
    return tasks, data
