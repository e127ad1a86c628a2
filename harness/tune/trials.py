"""Settings of a method tried one after the other on one split: what `tune` and `calibrate` choose from.

Outputs, scores and times come from the functions that measure a suite's cells (`harness.measure`), so a trial is
what a run would have measured. Nothing is tried before it is asked for, and nothing twice; what it cost is counted.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import methods
from harness import outside, tasks
from harness.errors import BadInput, near
from harness.machine import turn
from harness.measure import running
from harness.measure.predicted import passes_s
from harness.measure.prepare import prepare
from harness.measure.quality import quality
from harness.measure.setup import load
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.records import clock
from harness.records.arms import Planned, Prepared
from harness.records.fields import QualityFields
from harness.records.limits import BASELINE
from harness.spec import parse_spec, written
from harness.stats.intervals import Interval
from harness.suites.entries import MethodEntry
from harness.suites.suite import Suite
from harness.tasks.base import Example, Task, data_hash
from harness.tasks.metrics import Metric
from harness.tune.cost import Clock

Json = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What trials are made on; the same for all of them.

    Attributes:
        model: checkpoint of the method.
        baseline: checkpoint of the full model it is compared with.
        task: registered task.
        metric: one of the task's metrics.
        data: local data folder.
        batch_size: rows decoded together when timed.
        quality_batch_size: rows decoded together when scored.
        max_new_tokens: limit when scored; None: the task's own.
        expected_tokens: output length schedules plan for; None: the task's median reference length.
        new_tokens: tokens per row when timed.
        repeats: timed repeats of every setting.
        device: cpu, cuda or cuda:N.
        dtype: of the weights.
        threads: CPU threads; None: all physical cores.
        compact_exits: as in a suite.
    """

    model: str
    baseline: str
    task: str
    metric: str
    data: Path | None = None
    batch_size: int = 1
    quality_batch_size: int = 32
    max_new_tokens: int | None = None
    expected_tokens: int | None = None
    new_tokens: int = 24
    repeats: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    compact_exits: bool = False

    @cached_property
    def loaded_task(self) -> Task:
        """The task, its metric known to be one of its own."""
        task = tasks.create(self.task, self.data)
        names = [metric.name for metric in task.metrics()]
        if self.metric not in names:
            raise BadInput(f"metric: {self.metric!r} is not a metric of task {self.task}; {near(self.metric, names)}")
        return task

    @property
    def scored(self) -> Metric:
        """The metric."""
        return next(metric for metric in self.loaded_task.metrics() if metric.name == self.metric)

    def plain(self) -> Json:
        """The conditions as JSON values."""
        names = ("model", "baseline", "batch_size", "quality_batch_size", "new_tokens", "repeats", "device", "dtype")
        return {name: getattr(self, name) for name in (*names, "max_new_tokens", "threads", "compact_exits")}


class Trials:
    """Settings on one split of the task.

    Args:
        setup: conditions.
        settings: the methods to choose from.
        split: train, validation or test.
        limit: first so many examples; None: all.
    """

    def __init__(self, setup: Setup, settings: Sequence[Method], split: str, limit: int | None = None) -> None:
        self.setup, self.settings, self.split = setup, list(settings), split
        self.examples: list[Example] = setup.loaded_task.examples(split, limit)
        self.names = names_of(self.settings)
        entries = [
            MethodEntry(name=BASELINE, label=BASELINE, checkpoint=setup.baseline),
            *(
                MethodEntry(name=m.called, parameters=m.given, label=name, checkpoint=setup.model)
                for m, name in zip(self.settings, self.names, strict=True)
            ),
        ]
        self._suite = Suite.model_validate(
            {
                "name": "trials",
                "model": setup.model,
                "methods": entries,
                "batch_sizes": [setup.batch_size],
                "tasks": [{"name": setup.task, "split": split, "limit": limit, "metrics": [setup.metric]}],
                "new_tokens": setup.new_tokens,
                "repeats": setup.repeats,
                "quality_batch_size": setup.quality_batch_size,
                "max_new_tokens": setup.max_new_tokens,
                "expected_tokens": setup.expected_tokens,
                "device": setup.device,
                "dtype": setup.dtype,
                "threads": setup.threads,
                "compact_exits": setup.compact_exits,
            }
        )
        self._cells: dict[int, QualityFields] = {}
        self._decoders: dict[str, Decoder] = {}
        self.timed: dict[int, Interval | None] = {}
        self.cost: Json = {"trials": 0, "scored_examples": 0, "generated_tokens": 0, "timed": 0}
        self.cost |= {"seconds": 0.0, "cpu_seconds": 0.0}

    @cached_property
    def _prepared(self) -> Prepared:
        with self._working(timed=True):
            arms: list[Planned] = [
                {"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": self._suite.checkpoint(e)}
                for e in self._suite.methods
            ]
            found = prepare(self._suite, arms, self.setup.data)
        for line in found.get("ignored_settings", []):
            print(line, file=sys.stderr)
        return found

    @property
    def expected_tokens(self) -> int:
        """The output length schedules plan for."""
        found = self._prepared["expected_tokens"][self.setup.task]
        assert isinstance(found, int), "not an lm-eval task"
        return found

    def quality(self, place: int | None) -> QualityFields:
        """Outputs and scores of a setting by its place, None for the full model; as in a quality cell."""
        index = 0 if place is None else place + 1
        if index not in self._cells:
            arm = self._prepared["arms"][index]
            reference = None
            if place is not None:
                reference = {e["id"]: e["token_ids"] for e in self.quality(None)["examples"]}
            with self._working(timed=False):
                decoder = self._decoder(arm["checkpoint"])
                cell = quality(self._suite, arm, 0, self._prepared, self.setup.data, reference, decoder=decoder)
            self._cells[index] = cell
            self.cost["trials"] += 1
            self.cost["scored_examples"] += len(cell["examples"])
            self.cost["generated_tokens"] += cell["tokens"]
        return self._cells[index]

    def add(self, setting: Method) -> int:
        """Take one more setting of the method, to be scored like the others and not timed; returns its place."""
        self.settings.append(setting)
        self.names = names_of(self.settings)
        arms, name = self._prepared["arms"], self.names[-1]
        arms.append({**arms[1], "label": name, "spec": str(setting), "params": setting.params})
        return len(self.settings) - 1

    def predicted(self, place: int) -> float:
        """The predicted speed-up of a setting that drafts: the passes counted on the scored outputs, at the full model's pace.

        A pass costs what the full model's own step spends around its blocks and in as many of them (`passes_s`). The full model
        is timed once.
        """
        cell, parts = self.quality(place), self.step_parts_s
        heads, attention, feed = (
            cell.get("heads_per_token") or 0.0,
            cell.get("serial_attention_per_token") or 0.0,
            cell.get("serial_feed_per_token") or 0.0,
        )
        around = parts["step"] - cell["depth"] * (parts["attention"] + parts["feed"])
        seconds = passes_s(heads, attention, feed, around, parts["attention"], parts["feed"])
        if not seconds:
            raise BadInput(f"{self.names[place]}: no token was generated after the first, so no pass can be counted")
        return parts["step"] / seconds

    @cached_property
    def step_parts_s(self) -> dict[str, float]:
        """Seconds of the full model's step at the timed batch size, and of one block's `attention` and `feed` in it."""
        from harness.measure.speed import speed

        with self._working(timed=True):
            arm = self._prepared["arms"][0]
            cell = speed(self._suite, [arm], self.setup.batch_size, 0, self._prepared, self.setup.data)[BASELINE]
        parts, step = cell.get("step_parts_s"), cell.get("predicted_full_step_s")
        if cell["status"] != "ok" or parts is None or step is None:
            raise BadInput(f"{BASELINE}: cannot be timed: {cell.get('error') or 'the parts of its step are not known'}")
        return {"step": step, "attention": parts["attention"], "feed": parts["feed"]}

    def time(self, places: Sequence[int]) -> None:
        """Time settings against the full model, all interleaved on the same prompts; `timed` holds the speed-ups after."""
        from harness.measure.speed import speed

        wanted = [place for place in places if place not in self.timed]
        if not wanted:
            return
        arms = [self._prepared["arms"][0], *(self._prepared["arms"][place + 1] for place in wanted)]
        with self._working(timed=True):
            cells = speed(self._suite, arms, self.setup.batch_size, 0, self._prepared, self.setup.data)
        for place, arm in zip(wanted, arms[1:], strict=True):
            cell = cells[arm["label"]]
            if cell["status"] != "ok":
                raise BadInput(f"{arm['label']}: cannot be timed: {cell['error']}")
            self.timed[place] = clock.speedup(cells[BASELINE], cell)
            self.cost["timed"] += 1

    def data(self) -> Json:
        """Which examples these are."""
        return {
            "task": self.setup.task,
            "split": self.split,
            "examples": len(self.examples),
            "hash": data_hash(self.examples),
        }

    def _decoder(self, checkpoint: str) -> Decoder:
        if checkpoint not in self._decoders:
            self._decoders[checkpoint] = load(self._suite, checkpoint)
        return self._decoders[checkpoint]

    @contextlib.contextmanager
    def _working(self, *, timed: bool) -> Iterator[None]:
        """Within it the device is held, what goes on is said, and the time counts as cost."""
        with turn.taken(self.setup.device, timed=timed), running.aloud(), Clock(self.cost):
            yield


def shown_parameters(settings: Sequence[Method]) -> list[Json]:
    """The parameters of each setting that are not defaults, and always those in which the settings differ."""
    varied = [name for name in settings[0].params if len({repr(m.params.get(name)) for m in settings}) > 1]
    return [{name: value for name, value in m.params.items() if name in m.given or name in varied} for m in settings]


def names_of(settings: Sequence[Method]) -> list[str]:
    """Each setting as a spec in which no default hides what is varied; `full` goes by another name than the baseline."""
    shown = []
    for method, parameters in zip(settings, shown_parameters(settings), strict=True):
        inside = ", ".join(f"{name}={written(value)}" for name, value in parameters.items())
        called = outside.short(method.called)
        shown.append(f"{called}({inside})" if inside else f"{called} here")
    return shown


def settings_of(
    spec: str, model: str, tried: Sequence[str], device: str, dtype: str
) -> tuple[list[Method], Method, int]:
    """The settings to try, the most cautious first; the method's full-depth setting; the model's depth.

    Args:
        spec: method with the parameters that stay fixed.
        model: checkpoint.
        tried: `name=value,value,...` for each parameter to vary, in the order to be tried (the last varies fastest); none:
            what the method itself proposes.
        device: where the model is looked at.
        dtype: of its weights.

    Raises:
        BadInput: the method proposes nothing, or not one setting fits the model.
    """
    method = methods.create(spec)
    decoder = load_model(model, device=device, dtype=dtype)
    grid = list(_grid(method, tried)) if tried else list(method.candidates(decoder.depth))
    if not grid:
        raise BadInput(f"method: {method.name} proposes nothing to try; name values with --try, as in --try name=1,2,3")
    kept: dict[str, Method] = {}
    refused = ""
    for candidate in grid:
        try:
            kept.setdefault(str(candidate), candidate.resolve(decoder.depth, decoder.extras))
        except BadInput as error:
            refused = refused or str(error)
    if not kept:
        raise BadInput(f"method: no setting fits {model}: {refused}")
    if refused and tried:
        raise BadInput(refused)
    full = method.no_skip(decoder.depth) or methods.create(BASELINE)
    return list(kept.values()), full, decoder.depth


def _grid(method: Method, tried: Sequence[str]) -> Iterator[Method]:
    names, values = [], []
    for text in tried:
        name, equals, listed = text.partition("=")
        parts = [part.strip() for part in listed.split(",")]
        if not equals or not all(parts):
            raise BadInput(f"--try {text!r}: cannot be read; write name=value,value,...")
        names.append(name.strip())
        values.append(parts)
    fixed = {name: value for name, value in method.params.items() if name not in names}
    for combination in itertools.product(*values):
        given = ", ".join(f"{name}={value}" for name, value in zip(names, combination, strict=True))
        try:
            varied = parse_spec(f"{method.name}({given})")[1]
        except ValueError as error:
            raise BadInput(f"--try: {error}") from None
        yield methods.create(method.called, **fixed, **varied)


def make_setup(
    task: str, model: str, metric: str | None, data: Path | None, baseline: str | None, **more: Any
) -> Setup:
    """A setup with the task's first metric and the method's own checkpoint where none is named."""
    first = metric or tasks.create(task, data).metrics()[0].name
    setup = Setup(model, baseline or model, task, first, data, **more)
    _ = setup.loaded_task
    return setup
