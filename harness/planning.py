"""What a suite would run, before anything runs: every cell with its estimated memory and FLOPs, and what is missing for it.

Sizes come from a model built on torch's meta device, which holds no numbers: no weights are loaded, nothing is measured,
nothing is written. Schedules are counted as they will run. For methods that decide while decoding the estimate is a bound:
no row exits early and every exit test is paid, or no draft is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import methods
from harness import tasks
from harness.config import Suite, TaskEntry
from harness.errors import BadInput
from harness.method import Draft, Exit, ExitState, Method
from harness.models import DTYPES, bundled_folder, family
from harness.models.decoder import Decoder, Geometry
from harness.models.shapes import PREFIX, SHAPES, is_random
from harness.plan import LayerPlan, Pass, Step, StepTrace, Trace
from harness.probes import flops
from harness.sweep import cell_id
from harness.tasks.base import Task
from harness.tasks.bertscore import HUB_MODEL, MODEL, MODEL_BYTES, BertScore

# Interpreter, torch and transformers, resident before any weights (results/bench-quick, `baseline_rss_bytes`).
_PROCESS_BYTES = 330_000_000
EXACT, ABOUT, AT_MOST = "", "~", "<="


@dataclass(frozen=True)
class Cell:
    """One cell of a run that is not there yet.

    Attributes:
        id: as the run will name it.
        kind: `quality`, `speed` or `memory`.
        label: of the arm.
        on: task or batch size.
        memory_bytes: estimated peak of its process: weights, joined copies of them, K/V and the largest activations; None:
            not known.
        flops: estimated matrix products of everything the cell runs, warm-up and repeats included; None: not known.
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
    """

    cells: tuple[Cell, ...]
    needs: tuple[str, ...]
    assumed: tuple[str, ...]


def plan(suite: Suite, data: Path | None) -> Plan:
    """Plan a suite without running anything.

    Raises:
        BadInput: a method, model or task that cannot work.
    """
    return _Planner(suite, data).plan()


class _Planner:
    def __init__(self, suite: Suite, data: Path | None) -> None:
        self.suite, self.data = suite, data
        self.needs: dict[str, None] = {}
        self.assumed: dict[str, None] = {}
        self.checkpoints = list(dict.fromkeys(suite.checkpoint(entry) for entry in suite.methods))
        self.decoder = self._skeleton()
        self.element = DTYPES[suite.dtype].itemsize
        self._weights = self.decoder.weight_bytes
        self._extra = _joined_bytes(self.decoder, another_layout=suite.device == "cpu")

    def plan(self) -> Plan:
        self._missing_weights()
        arms = [(entry.title, methods.create(entry.spec).resolve(self.decoder.depth, _AnyTensor(self.decoder.geometry.width)))
                for entry in self.suite.methods]  # fmt: skip
        arms.sort(key=lambda arm: arm[1].name != "full")
        facts = [self._facts(entry) for entry in self.suite.tasks]
        cells = [self._quality(label, method, entry.name, fact)
                 for entry, fact in zip(self.suite.tasks, facts, strict=True) for label, method in arms]  # fmt: skip
        width = self.suite.prompt_tokens or facts[0].prompt
        expected = facts[0].expected if facts else self.suite.expected_tokens or self.suite.new_tokens
        for batch in self.suite.batch_sizes:
            cells += [self._timed("speed", label, method, batch, width, expected) for label, method in arms]
            if self.suite.memory:
                cells += [self._timed("memory", label, method, batch, width, expected) for label, method in arms]
        return Plan(tuple(cells), tuple(self.needs), tuple(self.assumed))

    def _quality(self, label: str, method: Method, task: str, fact: _Facts) -> Cell:
        rows = min(self.suite.quality_batch_size, fact.examples)
        one = _generation(method, self.decoder, rows, fact.prompt, max(fact.expected, 2), fact.expected)
        limit = _generation(method, self.decoder, rows, fact.longest, fact.most, fact.expected)
        total = None if one.flops is None else one.flops * fact.examples / rows
        bound = one.bound or ABOUT
        memory = self._memory(1, rows, fact.longest, limit.kv_elements)
        return Cell(cell_id("quality", label, task), "quality", label, task, memory, total, bound)

    def _timed(self, kind: str, label: str, method: Method, batch: int, width: int, expected: int) -> Cell:
        suite = self.suite
        one = _generation(method, self.decoder, batch, width, suite.new_tokens, expected)
        runs = suite.processes * (suite.warmup * suite.prompt_sets + suite.repeats) if kind == "speed" else 1
        loaded = len(self.checkpoints) if kind == "speed" else 1
        bound = one.bound or (EXACT if suite.prompt_tokens else ABOUT)
        total = None if one.flops is None else one.flops * runs
        memory = self._memory(loaded, batch, width, one.kv_elements)
        return Cell(cell_id(kind, label, f"b{batch}"), kind, label, f"batch {batch}", memory, total, bound)

    def _memory(self, checkpoints: int, rows: int, width: int, kv_elements: int) -> float:
        g = self.decoder.geometry
        # The widest moment of prefill: input and output of the feed-forward sublayer; then the logits, kept as float32 too.
        wide = 2 * g.width + max(g.feed_weights // g.width, 4 * g.width)
        activations = rows * max(width * wide * self.element, g.vocabulary * (self.element + 4))
        process = _PROCESS_BYTES if self.suite.device == "cpu" else 0
        return process + checkpoints * (self._weights + self._extra) + kv_elements * self.element + activations

    def _skeleton(self) -> Decoder:
        """The suite's model on the meta device; the first checkpoint whose sizes are known gives them."""
        name = _named(self.suite, self.checkpoints[0])[0]
        config, taken = _config(name)
        if taken:
            self.assumed[f"{name}: not here; taken to have the sizes of {taken}"] = None
        return _on_meta(name, config, DTYPES[self.suite.dtype])

    def _missing_weights(self) -> None:
        count = sum(p.numel() for p in self.decoder.source.parameters())
        size = f"{count / 1e9:.3g} billion parameters, about {2 * count / 1e9:.3g} GB at 2 bytes each"
        for name in (resolved for checkpoint in self.checkpoints for resolved in _named(self.suite, checkpoint)):
            if is_random(name) or bundled_folder(name) is not None or Path(name).is_dir():
                continue
            if name.startswith((".", "/", "~")):
                self.needs[
                    f"weights {name}: no such folder; train or copy them, see the suite's description ({size})"
                ] = None
            elif not _cached(name, "config.json"):
                self.needs[f"weights {name}: from the hub ({size})"] = None

    def _facts(self, entry: TaskEntry) -> _Facts:
        task = tasks.create(entry.name, self.data)
        for metric in task.chosen_metrics(entry.metrics):
            if isinstance(metric, BertScore):
                self._bertscore()
        source = task.rows_from
        if source is not None and self.data is None:
            config = f" ({source.config})" if source.config else ""
            self.needs[
                f"data set {source.hub}{config}: from the hub, {source.rows[entry.split]:,} rows of {entry.split}"
            ] = None
        elif source is not None and self.data is not None:
            source.local(self.data, entry.split)  # a missing file is said now, as the run would
        expected = entry.expected_tokens or self.suite.expected_tokens
        limit = entry.max_prompt_tokens or task.max_prompt_tokens
        most = self.suite.max_new_tokens or task.max_new_tokens
        counted = self._counted(task, entry, expected, limit, most) if source is None or self.data is not None else None
        if counted is not None:
            return counted
        prompt, reference = task.planned_tokens
        prompt = min(prompt, limit or prompt)
        if source is None or self.data is not None:
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
            (t for c in self.checkpoints for n in _named(self.suite, c) if (t := _tokenizer(n)) is not None), None
        )
        if tokenizer is None:
            return None
        from harness.prompts import expected_tokens, fit

        examples, _ = fit(task.examples(entry.split, entry.limit), tokenizer, limit, task.name)
        lengths = list(map(len, tokenizer([example.prompt for example in examples]).input_ids))
        expected = expected or expected_tokens(task, tokenizer)
        return _Facts(len(examples), math.ceil(sum(lengths) / len(lengths)), max(lengths), expected, most)

    def _bertscore(self) -> None:
        from importlib.util import find_spec

        if find_spec("bert_score") is None:
            self.needs["bertscore: the library bert-score is not installed; pip install 'depthbench[bertscore]'"] = None
        if not (_cached(HUB_MODEL, "config.json") or _cached(MODEL, "config.json")):
            self.needs[f"bertscore: its encoder {MODEL}, from the hub ({MODEL_BYTES / 1e9:.2g} GB)"] = None


@dataclass(frozen=True)
class _Facts:
    """What a task asks of a run: examples, mean and longest prompt, expected and most new tokens."""

    examples: int
    prompt: int
    longest: int
    expected: int
    most: int


@dataclass(frozen=True)
class _Generation:
    """Cost of one generation: FLOPs over its rows, elements of K and V allocated, how to read the FLOPs."""

    flops: float | None
    kv_elements: int
    bound: str


def _generation(method: Method, decoder: Decoder, rows: int, width: int, new: int, expected: int) -> _Generation:
    """What `rows` prompts of `width` tokens and `new` tokens each cost under a method."""
    g, depth = decoder.geometry, decoder.depth
    plans = [method.plan(Step(k, expected), width, depth) for k in range(1, new)]
    bound = EXACT if method.family == "schedule" else AT_MOST
    spare = 0
    if isinstance(method, Draft):
        spare = method.draft_tokens + 1
        steps = [_rejected(method, depth, rows, width + k) for k in range(new - 1)]
    elif isinstance(method, Exit):
        tested = _tests(method, decoder.depth, g.width, g.vocabulary, rows, expected)
        if tested is None:
            return _Generation(None, 2 * rows * g.kv_heads * g.head_dim * depth * (width + new - 1), ABOUT)
        steps = [
            StepTrace(p, head_rows=rows, test_heads=tested[0], test_reads=tested[1], test_flops=tested[2])
            for p in plans
        ]
    else:
        steps = [StepTrace(p, head_rows=rows) for p in plans]
    trace = Trace(rows, depth, width, StepTrace(LayerPlan.full(depth), head_rows=rows), steps)
    counted = flops.count(trace, g, 1)
    # As the engine allocates: a schedule's blocks hold the positions that ran their attention, others hold all.
    known = method.family == "schedule"
    held = [width + (sum(p.attention[layer] for p in plans) if known else new - 1 + spare) for layer in range(depth)]
    return _Generation(counted.prefill + counted.decode, 2 * rows * g.kv_heads * g.head_dim * sum(held), bound)


def _rejected(method: Draft, depth: int, rows: int, keys: int) -> StepTrace:
    """A step in which the model accepts nothing of the draft."""
    drafts = method.draft_tokens
    draft = method.draft_plan(depth)
    passes = [Pass(draft, 1, keys + i + 1, rows, True) for i in range(drafts)]
    passes.append(Pass(LayerPlan.full(depth), drafts + 1, keys + drafts + 1, rows * (drafts + 1), False))
    return StepTrace(LayerPlan.full(depth), passes=tuple(passes), yielded=torch.ones(rows, dtype=torch.long))


@cache
def _tests(
    method: Exit, depth: int, width: int, vocabulary: int, rows: int, expected: int
) -> tuple[int, int, int] | None:
    """Heads, reads of the head and other FLOPs of all exit tests of a step that no row leaves; None: the test needs numbers."""

    def head(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_empty(hidden.shape[0], vocabulary)

    state = ExitState(head, _AnyTensor(width), 1, expected)
    hidden = torch.empty(rows, width, device="meta")
    try:
        for layer in range(depth):
            state.advance(hidden)
            if method.tests(layer, depth):
                method.should_exit(layer, hidden, state)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return None
    return state.test_heads, state.test_reads, state.test_flops


class _AnyTensor(Mapping[str, torch.Tensor]):
    """Stands for the trained tensors beside a checkpoint: a probe of the model's width under any name."""

    def __init__(self, width: int) -> None:
        self._width = width

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.empty((1,) if name.endswith("bias") else (1, self._width), device="meta")

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _named(suite: Suite, checkpoint: str) -> list[str]:
    """A checkpoint's names over the tasks of the suite."""
    if "{task}" not in checkpoint:
        return [checkpoint]
    return [checkpoint.replace("{task}", entry.name) for entry in suite.tasks]


def geometry(name: str) -> Geometry:
    """Sizes of a model by name, without its weights."""
    config, _ = _config(name)
    return _on_meta(name, config, torch.float32).geometry


def _config(name: str) -> tuple[Any, str]:
    """The transformers config of a model, and the shape it was taken from where the model itself is not here."""
    from transformers import AutoConfig

    folder = bundled_folder(name) or (Path(name) if Path(name).is_dir() else None)
    if folder is not None:
        return _try(lambda: AutoConfig.from_pretrained(str(folder), trust_remote_code=False), name), ""
    if _cached(name, "config.json"):
        return _try(lambda: AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False), name), ""
    exact = name.removeprefix(PREFIX) if is_random(name) else ""
    inside = sorted((shape for shape in SHAPES if shape in name.lower()), key=len)
    shape = exact or (inside[-1] if inside else "")
    if shape in SHAPES:
        settings = dict(SHAPES[shape])
        return AutoConfig.for_model(settings.pop("model_type"), **settings), "" if exact else shape
    if is_random(name) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BadInput(
            f"model: sizes of {name!r} are not known: no such folder, and no shape in its name ({', '.join(SHAPES)})"
        )
    return _try(lambda: AutoConfig.from_pretrained(name, trust_remote_code=False), name), ""


def _try(read: Callable[[], Any], name: str) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadInput(f"model: config of {name} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _on_meta(name: str, config: Any, dtype: torch.dtype) -> Decoder:
    from transformers import AutoModelForCausalLM

    cls = family(config)
    with torch.device("meta"):
        source = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.inference_mode():
        return cls(name, source)


def _joined_bytes(decoder: Decoder, another_layout: bool) -> int:
    """Bytes of weights that exist twice: matrices joined to one, and on a CPU up to one more layout of every matrix."""
    stored = {p.untyped_storage()._cdata for p in decoder.source.parameters()}
    maps = {m.weight.untyped_storage()._cdata: m.weight for block in decoder.blocks for m in block.maps()}
    joined = sum(w.untyped_storage().nbytes() for key, w in maps.items() if key not in stored)
    return joined + (sum(w.untyped_storage().nbytes() for w in maps.values()) if another_layout else 0)


def _cached(repository: str, file: str) -> bool:
    """Whether a file of a hub repository is in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, file), str)
    except HFValidationError:
        return False


@cache
def _tokenizer(name: str) -> Any:
    """The tokenizer of a model that is here; None where it is not."""
    folder = bundled_folder(name) or (Path(name) if Path(name).is_dir() else None)
    if folder is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None


Rows = list[tuple[str, ...]]


def rows(found: Plan) -> Rows:
    """The cells as a table; the first row is the header."""
    table: Rows = [("kind", "arm", "on", "memory, GB", "FLOPs", "cell")]
    for cell in found.cells:
        memory = "" if cell.memory_bytes is None else f"{cell.memory_bytes / 1e9:.3g}"
        work = "" if cell.flops is None else f"{cell.bound}{cell.flops:.2e}"
        table.append((cell.kind, cell.label, cell.on, memory, work, cell.id))
    return table


def lines(found: Plan) -> list[str]:
    """What stands below the table."""
    known = [cell.flops for cell in found.cells if cell.flops is not None]
    peak = max((cell.memory_bytes for cell in found.cells if cell.memory_bytes is not None), default=0.0)
    kinds = {kind: sum(cell.kind == kind for cell in found.cells) for kind in ("quality", "speed", "memory")}
    return [
        f"{len(found.cells)} cells ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}); largest memory about "
        f"{peak / 1e9:.3g} GB; together about {sum(known):.2e} FLOPs. Estimates: nothing was run. "
        f"~ about, {AT_MOST} at most (no early exit, no draft accepted)",
        *(f"assumed: {line}" for line in found.assumed),
        *(f"needed: {line}" for line in found.needs),
        *(() if found.needs else ("needed: nothing; everything is here",)),
    ]
