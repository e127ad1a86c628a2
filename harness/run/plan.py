"""What a suite would run, before anything runs: every cell with its estimated memory and FLOPs, and what is missing for it.

Sizes come from a model built on torch's meta device, which holds no numbers: no weights are loaded, nothing is measured,
nothing is written. Schedules are counted as they will run. For methods that decide while decoding the estimate is a bound:
no row exits early and every exit test is paid, or no draft is accepted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

import methods
from harness import tasks
from harness.errors import BadInput
from harness.measure.probes import energy
from harness.measure.turns import of_base
from harness.method import Method
from harness.models import named
from harness.models.bundled import bundled
from harness.models.decoder import Decoder
from harness.models.load import DTYPES, base, local_folder
from harness.models.precision import state_dtype
from harness.models.shapes import is_random
from harness.models.skeleton import cached, config_of, copied_bytes, on_meta, tokenizer_of
from harness.records import beside
from harness.records.cells import cell_id
from harness.records.limits import BASELINE
from harness.run.costs import ABOUT, AT_MOST, EXACT, AnyTensor, generation
from harness.suites.entries import MethodEntry, TaskEntry
from harness.suites.suite import Suite
from harness.tasks.base import Task
from harness.tasks.bertscore import HUB_MODEL, MODEL, MODEL_BYTES, BertScore
from harness.tasks.prompts import expected_tokens, fit
from harness.train.recipes import names as recipe_names

# Interpreter, torch and transformers, resident before any weights (results/bench-quick, `baseline_rss_bytes`).
_PROCESS_BYTES = 330_000_000


@dataclass(frozen=True)
class Cell:
    """One cell of a run that is not there yet.

    Attributes:
        id: as the run will name it.
        kind: `quality`, `speed`, `memory` or `energy`.
        label: of the arm.
        on: task or batch size.
        memory_bytes: estimated peak of its process: weights, joined copies of them, K/V and the largest activations; None:
            not known.
        flops: estimated matrix products of everything the cell runs, warm-up and repeats included; None: not known, as of
            energy, which is measured over a time.
        bound: how to read `flops`: exact (empty), `~` about, `<=` at most.
    """

    id: str
    kind: str
    label: str
    on: str
    memory_bytes: float | None
    flops: float | None
    bound: str


@dataclass(frozen=True)
class Plan:
    """What a suite would run.

    Attributes:
        cells: in the order of the run.
        needs: one line for everything that has to be fetched, made or installed first.
        assumed: one line for everything that was taken for granted.
        weight_bytes: of the full model.
        depth: its blocks.
    """

    cells: tuple[Cell, ...]
    needs: tuple[str, ...]
    assumed: tuple[str, ...]
    weight_bytes: int
    depth: int


def plan(suite: Suite, data: Path | None) -> Plan:
    """Plan a suite without running anything.

    Raises:
        BadInput: a method, model, task or published table that cannot work.
    """
    beside.select(suite.published)
    return _Planner(suite, data).plan()


class _Planner:
    def __init__(self, suite: Suite, data: Path | None) -> None:
        self.suite, self.data = suite, data
        self.needs: dict[str, None] = {}
        self.assumed: dict[str, None] = {}
        self.checkpoints = list(dict.fromkeys(suite.checkpoint(entry) for entry in suite.methods))
        self._unbundled()
        self.decoder = self._skeleton()
        self.element = state_dtype(DTYPES[suite.dtype], suite.device).itemsize
        self._weights = self.decoder.weight_bytes
        self._extra = copied_bytes(self.decoder, panels=suite.device == "cpu")

    def plan(self) -> Plan:
        self._missing_weights()
        arms = [(entry.title, methods.create(entry.spec).resolve(self.decoder.depth, AnyTensor(self.decoder.geometry.width)))
                for entry in self.suite.methods]  # fmt: skip
        self.shallower = {entry.title: found for entry in self.suite.methods if (found := self._shallower(entry))}
        arms.sort(key=lambda arm: arm[1].name != BASELINE)
        facts = [self._facts(entry) for entry in self.suite.tasks]
        cells = [self._quality(label, method, entry, fact)
                 for entry, fact in zip(self.suite.tasks, facts, strict=True) for label, method in arms]  # fmt: skip
        width = self.suite.prompt_tokens or facts[0].prompt
        expected = facts[0].expected if facts else self.suite.expected_tokens or self.suite.new_tokens
        for batch in self.suite.batch_sizes:
            cells += [self._timed("speed", label, method, batch, width, expected) for label, method in arms]
            for kind in self._alone():
                cells += [self._timed(kind, label, method, batch, width, expected) for label, method in arms]
        return Plan(tuple(cells), tuple(self.needs), tuple(self.assumed), self._weights, self.decoder.depth)

    def _alone(self) -> list[str]:
        """What every arm does alone: as `harness.run.sweep` does, energy only where a counter can be read."""
        wanted = ["memory"] if self.suite.memory else []
        if self.suite.energy and energy.counters(torch.device(self.suite.device)):
            return [*wanted, "energy"]
        if self.suite.energy:
            self.assumed["energy: no counter can be read here; where one can, a run measures it too"] = None
        return wanted

    def _quality(self, label: str, method: Method, entry: TaskEntry, fact: _Facts) -> Cell:
        task = entry.name
        if entry.is_lm_eval:
            return Cell(cell_id("quality", label, task), "quality", label, task, None, None, "")
        rows = min(self.suite.quality_batch_size, fact.examples)
        decoder = self.shallower.get(label, self.decoder)
        one = generation(method, decoder, rows, fact.prompt, max(fact.expected, 2), fact.expected)
        limit = generation(method, decoder, rows, fact.longest, fact.most, fact.expected)
        total = None if one.flops is None else one.flops * fact.examples / rows
        bound = one.bound or ABOUT
        memory = self._memory(1, rows, fact.longest, limit.kv_elements)
        return Cell(cell_id("quality", label, task), "quality", label, task, memory, total, bound)

    def _timed(self, kind: str, label: str, method: Method, batch: int, width: int, expected: int) -> Cell:
        suite = self.suite
        one = generation(method, self.shallower.get(label, self.decoder), batch, width, suite.new_tokens, expected)
        base = next(entry.title for entry in suite.methods if entry.name == BASELINE)
        turns = of_base(len(suite.methods) - 1) if label == base else 1
        runs = suite.processes * (suite.warmup * suite.prompt_sets + suite.repeats * turns) if kind == "speed" else 1
        loaded = len(self.checkpoints) if kind == "speed" else 1
        bound = one.bound or (EXACT if suite.prompt_tokens else ABOUT)
        # An energy cell repeats generations until its window is over: how many, only a run tells.
        total = None if one.flops is None or kind == "energy" else one.flops * runs
        bound = "" if kind == "energy" else bound
        memory = self._memory(loaded, batch, width, one.kv_elements)
        return Cell(cell_id(kind, label, f"b{batch}"), kind, label, f"batch {batch}", memory, total, bound)

    def _memory(self, checkpoints: int, rows: int, width: int, kv_elements: int) -> float:
        g = self.decoder.geometry
        # The widest moment of prefill: input and output of the feed-forward sublayer; then the logits, kept as float32 too.
        wide = 2 * g.width + max(g.feed_weights // g.width, 4 * g.width)
        activations = rows * max(width * wide * self.element, g.vocabulary * (self.element + 4))
        process = _PROCESS_BYTES if self.suite.device == "cpu" else 0
        return process + checkpoints * (self._weights + self._extra) + kv_elements * self.element + activations

    def _unbundled(self) -> None:
        """BadInput that names every variant of a bundled model that is not there, and the recipe that trains it."""
        here, recipes = bundled(), recipe_names()
        models = {name.split("/")[0] for name in here}
        wanted = dict.fromkeys(name for checkpoint in self.checkpoints for name in _named(self.suite, checkpoint))
        lacking = [name for name in wanted if name.split("/")[0] in models and "/" in name and name not in here]
        if made := [recipe for name in lacking if (recipe := name.replace("/", "-")) in recipes]:
            raise BadInput(
                f"model: not bundled: {', '.join(lacking)}; `depthbench train {made[0]} --out DIR` trains one, then name DIR "
                "in its place"
            )

    def _skeleton(self) -> Decoder:
        """The suite's model on the meta device; the first checkpoint whose sizes are known gives them."""
        name = _named(self.suite, self.checkpoints[0])[0]
        config, taken = config_of(name)
        if taken:
            self.assumed[f"{name}: not here; taken to have the sizes of {taken}"] = None
        return on_meta(name, config, DTYPES[self.suite.dtype])

    def _shallower(self, entry: MethodEntry) -> Decoder | None:
        """The model of an arm that has fewer blocks, where it is here and allowed; memory is estimated for the run's model."""
        name = _named(self.suite, self.suite.checkpoint(entry))[0]
        if entry.name != BASELINE or local_folder(name) is None:
            return None
        found = on_meta(name, config_of(name)[0], DTYPES[self.suite.dtype])
        return found if found.depth < self.decoder.depth else None

    def _missing_weights(self) -> None:
        count = sum(p.numel() for p in self.decoder.source.parameters())
        size = f"{count / 1e9:.3g} billion parameters, about {2 * count / 1e9:.3g} GB at 2 bytes each"
        for name in (base(each) for checkpoint in self.checkpoints for each in _named(self.suite, checkpoint)):
            if is_random(name) or local_folder(name) is not None:
                continue
            if name in named.NAMED:
                if named.kept(name) is None:
                    self.needs[f"weights {name}: fetched by the run from the package index ({named.size(name)})"] = None
                continue
            if name.startswith((".", "/", "~")):
                self.needs[
                    f"weights {name}: no such folder; train or copy them, see the suite's description ({size})"
                ] = None
            elif name in recipe_names():
                self.needs[f"weights {name}: depthbench train {name} --out {name} ({size})"] = None
            elif not cached(name, "config.json"):
                self.needs[f"weights {name}: from the hub ({size})"] = None

    def _facts(self, entry: TaskEntry) -> _Facts:
        if entry.is_lm_eval:
            return self._lm_eval(entry)
        task = tasks.create(entry.name, self.data)
        for metric in task.chosen_metrics(entry.metrics):
            if isinstance(metric, BertScore):
                self._bertscore()
        source, here = task.rows_from, True
        if source is not None and self.data is None:
            here = False
            config = f" ({source.config})" if source.config else ""
            self.needs[
                f"data set {source.hub}{config}: from the hub, {source.rows[entry.split]:,} rows of {entry.split}"
            ] = None
        elif source is not None and self.data is not None:
            try:
                source.local(self.data, entry.split)
            except BadInput as error:  # the run would stop here; a plan goes on and tells all that is missing
                here = False
                self.needs[str(error)] = None
        expected = entry.expected_tokens or self.suite.expected_tokens
        limit = entry.max_prompt_tokens or task.max_prompt_tokens
        most = self.suite.max_new_tokens or task.max_new_tokens
        counted = self._counted(task, entry, expected, limit, most) if here else None
        if counted is not None:
            return counted
        prompt, reference = task.planned_tokens
        prompt = min(prompt, limit or prompt)
        if here:
            examples = len(task.examples(entry.split, entry.limit))
        else:
            total = task.planned_examples[entry.split]
            examples = min(total, entry.limit or total)
        self.assumed[
            f"task {entry.name}: {examples:,} examples, prompts of about {prompt} tokens, outputs of about {expected or reference}"
        ] = None
        return _Facts(examples, prompt, limit or 2 * prompt, expected or reference, most)

    def _counted(
        self, task: Task, entry: TaskEntry, expected: int | None, limit: int | None, most: int
    ) -> _Facts | None:
        """Facts from the data and the tokenizer, where both are here."""
        tokenizer = next(
            (t for c in self.checkpoints for n in _named(self.suite, c) if (t := tokenizer_of(n)) is not None), None
        )
        if tokenizer is None:
            return None
        examples, _ = fit(task.examples(entry.split, entry.limit), tokenizer, limit, task.name)
        lengths = list(map(len, tokenizer([example.prompt for example in examples]).input_ids))
        if expected is None:
            try:
                expected = expected_tokens(task, tokenizer)
            except BadInput as error:
                self.needs[str(error)] = None
                expected = task.planned_tokens[1]
        return _Facts(len(examples), math.ceil(sum(lengths) / len(lengths)), max(lengths), expected, most)

    def _lm_eval(self, entry: TaskEntry) -> _Facts:
        """What is taken for granted of an lm-eval task: only lm-eval knows its documents, and reading them takes a run."""
        if self.data is None:
            self.needs[f"data set of lm-eval task {entry.lm_eval_name}: from the hub"] = None
        prompt, answer = Task.planned_tokens
        expected = entry.expected_tokens or self.suite.expected_tokens or answer
        timed = f"; timed on prompts of about {prompt} tokens" if entry == self.suite.tasks[0] else ""
        self.assumed[f"task {entry.name}: what scoring it needs is not estimated{timed}"] = None
        return _Facts(entry.limit or 1, prompt, 2 * prompt, expected, self.suite.max_new_tokens or answer)

    def _bertscore(self) -> None:
        from importlib.util import find_spec

        if find_spec("bert_score") is None:
            self.needs["bertscore: the library bert-score is not installed; pip install 'depthbench[bertscore]'"] = None
        if not (cached(HUB_MODEL, "config.json") or cached(MODEL, "config.json")):
            self.needs[f"bertscore: its encoder {MODEL}, from the hub ({MODEL_BYTES / 1e9:.2g} GB)"] = None


@dataclass(frozen=True)
class _Facts:
    """What a task asks of a run: examples, mean and longest prompt, expected and most new tokens."""

    examples: int
    prompt: int
    longest: int
    expected: int
    most: int


def _named(suite: Suite, checkpoint: str) -> list[str]:
    """A checkpoint's names over the tasks of the suite."""
    if "{task}" not in checkpoint:
        return [checkpoint]
    return [checkpoint.replace("{task}", entry.name) for entry in suite.tasks]


Rows = list[tuple[str, ...]]


def rows(found: Plan) -> Rows:
    """The cells as a table; the first row is the header."""
    table: Rows = [("kind", "arm", "on", "memory, GB", "FLOPs", "cell")]
    for cell in found.cells:
        memory = "" if cell.memory_bytes is None else f"{cell.memory_bytes / 1e9:.3g}"
        work = "" if cell.flops is None else f"{cell.bound}{cell.flops:.2e}"
        table.append((cell.kind, cell.label, cell.on, memory, work, cell.id))
    return table


def lines(found: Plan, time: str = "") -> list[str]:
    """What is missing first, then what the run takes, then what was taken for granted."""
    known = [cell.flops for cell in found.cells if cell.flops is not None]
    peak = max((cell.memory_bytes for cell in found.cells if cell.memory_bytes is not None), default=0.0)
    kinds = Counter(cell.kind for cell in found.cells)
    return [
        *(f"needed: {line}" for line in found.needs),
        *(() if found.needs else ("needed: nothing; everything is here",)),
        *((f"time: {time}",) if time else ()),
        f"{len(found.cells)} cells ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}); largest memory about "
        f"{peak / 1e9:.3g} GB; together about {sum(known):.2e} FLOPs. Estimates: nothing was run. "
        f"~ about, {AT_MOST} at most (no early exit, no draft accepted)",
        *(f"assumed: {line}" for line in found.assumed),
    ]
