"""What `depthbench new-method` writes: one complete method of each family, ready to be changed. Torch-free.

Every one passes `depthbench check` as it is (a test writes and checks all four).
"""

from __future__ import annotations

_HEAD = '''"""{title}: say the idea in one sentence.

Paper: authors, title, venue, link; which equation or section each rule comes from.
Deviations: what differs here from the paper, and from its code.
Cost: what deciding costs beyond the blocks that run.
"""

from __future__ import annotations

{imports}


@dataclass(frozen=True)
class {cls}({base}):
    """{doc}

    Parameters:
{parameters}
    """

    name: ClassVar[str] = "{name}"
    title: ClassVar[str] = "{title}"
    paper: ClassVar[str] = "not published"
{body}'''

_REPLACE = "from dataclasses import dataclass, replace\nfrom typing import ClassVar\n\n"

SCHEDULE = dict(
    base="Schedule",
    imports=f"{_REPLACE}from harness.method import Schedule\nfrom harness.plan import LayerPlan, Step",
    doc="A plan that is known before the step and the same for every row.",
    parameters="        after: leading blocks that always run; from there on every second one.",
    body='''
    after: int = 2

    def __post_init__(self) -> None:
        self._require("after", self.after >= 0, "0 or more")

    def no_skip(self, depth: int) -> {cls}:
        """The setting that must equal the full model; leave it out where there is none."""
        return replace(self, after=depth)

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        """The blocks of decode step `step.index` (1, 2, ...). The prompt has run all of them."""
        return LayerPlan.of([i for i in range(depth) if i < self.after or (i - self.after) % 2], depth)
''',
)

EXIT = dict(
    base="Exit",
    imports=f"{_REPLACE}import torch\nfrom harness.method import Exit\nfrom harness.state import GateState, largest_probability",
    doc="A row stops at the first block after which its prediction is sure enough.",
    parameters="        threshold: largest probability from which a row stops; above 1 none does.",
    body='''
    threshold: float = 0.9

    def __post_init__(self) -> None:
        self._require("threshold", self.threshold >= 0, "0 or more")

    def no_skip(self, depth: int) -> {cls}:
        """The setting that must equal the full model; leave it out where there is none."""
        return replace(self, threshold=2.0)

    def tests(self, layer: int, depth: int) -> bool:
        """Where a test stands: after every block but the last, and nowhere if no row can stop."""
        return layer < depth - 1 and self.threshold <= 1

    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        """Which rows stop after block `layer`, bool [R]; hidden [R, D] is read, never written on."""
        return largest_probability(state.logits(hidden)) >= self.threshold
''',
)

GATE = dict(
    base="Gate",
    imports=f"{_REPLACE}import torch\nfrom harness.method import Gate\nfrom harness.state import GateState",
    doc="A row skips the feed-forward sublayer of a block whose attention changed its state little.",
    parameters="        similarity: cosine of the state before and after attention that skips the feed; above 1 none does.",
    body='''
    similarity: float = 0.95

    def __post_init__(self) -> None:
        self._require("similarity", self.similarity >= -1, "-1 or more")

    def no_skip(self, depth: int) -> {cls}:
        """The setting that must equal the full model; leave it out where there is none."""
        return replace(self, similarity=2.0)

    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """Where rows choose: before the feed of every block but the first and the last."""
        return sublayer == "feed" and 0 < layer < depth - 1 and self.similarity <= 1

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        """Which rows run the sublayer, bool [R]; x [R, D] is read, never written on."""
        return state.cosine(x) < self.similarity
''',
)

DRAFT = dict(
    base="Draft",
    imports=(
        "from dataclasses import dataclass\nfrom typing import Any, ClassVar\n\n"
        "from harness.method import Draft\nfrom harness.plan import LayerPlan"
    ),
    doc="Drafts with the first blocks; the full model verifies, so its tokens are the output.",
    parameters="        exit_layer: blocks that draft.\n        draft: tokens drafted per step.",
    body='''
    exit_layer: int = 2
    draft: int = 3

    def __post_init__(self) -> None:
        self._require("exit_layer", self.exit_layer >= 1, "1 or more")
        self._require("draft", self.draft >= 1, "1 or more")

    @property
    def draft_tokens(self) -> int:
        """Tokens drafted per step at most."""
        return self.draft

    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        """The blocks that draft a token; the model's own norm and head follow."""
        return LayerPlan.of(range(min(self.exit_layer, depth)), depth)
''',
)

FAMILIES = {"schedule": SCHEDULE, "exit": EXIT, "gate": GATE, "draft": DRAFT}


def class_name(name: str) -> str:
    """The class of a method: `every_other` is EveryOther."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def written(name: str, family: str) -> str:
    """The whole file of a method called `name`, of one of FAMILIES."""
    parts = FAMILIES[family]
    cls, title = class_name(name), name.replace("_", " ").capitalize()
    told = {"cls": cls, "name": name, "title": title}
    return _HEAD.format(**told, **{**parts, "body": parts["body"].format(**told)})
