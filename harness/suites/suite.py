"""Suites: what is run, on what, how often. Validated on reading; an unknown key is refused with its name. Torch-free.

A suite is a YAML file, bundled (`harness/suites/`) or the user's own:

    model: opt-e2e-mini
    methods:
      - full
      - skipdecode(speedup=2)
      - {name: calm, label: CALM 0.9, checkpoint: opt-e2e-mini/calm-700, confidence: softmax, threshold: 0.9}
      - {tuned: calm-3x.json}  # written by `depthbench tune`
    batch_sizes: [1, 8]
    tasks: [restaurants]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from harness import outside, settings
from harness.errors import BadInput, near
from harness.records.beside import Beside
from harness.records.limits import BASELINE as BASELINE
from harness.records.limits import Limits as Limits
from harness.records.run_record import SuiteRecord
from harness.spec import parse_spec
from harness.suites.entries import MethodEntry, TaskEntry
from harness.validation import MOST, Count, Frozen, Line, Seed, Text, explain

FOLDER = Path(__file__).resolve().parent

DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
"""Devices by name; whether they are there is for torch to say."""


class Suite(Frozen):
    """A named experiment.

    Attributes:
        name: short name; the file's name unless given.
        title: heading of the report.
        description: what it is for, in a sentence or two.
        model: checkpoint of every method entry that names none. In it and in `checkpoint`, `{task}` stands for the task's name,
            for weights trained for each task; what is timed runs on those of the first one.
        methods: the arms; one of them is `full`.
        batch_sizes: rows decoded together, each timed on its own.
        tasks: what is scored; the first one's prompts are timed. None at all: random prompts of `prompt_tokens` tokens are
            timed and nothing is scored, as for a model without trained weights.
        prompt_tokens: None: the task's own prompts; else prompts of exactly so many tokens.
        new_tokens: tokens generated per row when timing (end of sequence ignored), the one from prefill included.
        dtype: of the weights, the same for all arms. A CPU computes with bfloat16 weights in float32.
        device: cpu, cuda or cuda:N.
        processes: fresh processes the timing is repeated in; 5 or more say how processes differ.
        repeats: timed repeats of every arm in each process. 1 is allowed, but a speed verdict needs 5 paired repeats
            over all processes; with fewer it is `inconclusive`.
        warmup: repeats before those, run alike and dropped.
        seed: of everything random.
        threads: CPU threads; None: all physical cores.
        max_new_tokens: limit when scoring; None: the task's own.
        quality_batch_size: rows decoded together when scoring.
        prompt_sets: different batches of prompts the repeats cycle over.
        expected_tokens: output length schedules plan for; None: the task's median reference length.
        memory: measure peak memory, every arm and batch size in a process of its own.
        energy: measure energy per token where a counter can be read, every arm and batch size in a process of its own;
            `--set energy=false` switches it off.
        energy_window_s: seconds over which a counter is read, once per run and device while it is idle and in every cell while it
            generates; None: 50 times what passes between two moves of the counter, which is measured, but at least 1.
        quality_margin: loss one accepts, in points of a task's first metric: `keeps quality` means that the loss is smaller
            with 95 % confidence.
        compact_exits: once rows of a batch have exited, go on with the others alone, at the price of copying their K/V; False
            computes all rows along until the last has left. The same for all arms, so both ways are two runs.
        time_limit_s: seconds one worker process may take before it is taken to hang and is killed.
        limits: where the gates stand.
        published: tables of papers that stand beside the results, see `harness.records.beside.Beside`.
    """

    name: Line
    title: Annotated[str, Field(max_length=1000)] = ""
    description: Annotated[str, Field(max_length=10_000)] = ""
    model: Text
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    batch_sizes: tuple[Count, ...] = Field(min_length=1)
    tasks: tuple[TaskEntry, ...] = ()
    prompt_tokens: Count | None = None
    new_tokens: Annotated[int, Field(strict=True, ge=2, le=MOST)] = 48
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Text = "cpu"
    processes: Count = 5
    repeats: Count = 10
    warmup: Count = 1
    seed: Seed = 0
    threads: Count | None = None
    max_new_tokens: Count | None = None
    quality_batch_size: Count = 16
    prompt_sets: Count = 1
    expected_tokens: Count | None = None
    memory: Annotated[bool, Field(strict=True)] = True
    energy: Annotated[bool, Field(strict=True)] = True
    energy_window_s: Annotated[float, Field(ge=1, le=1e5, allow_inf_nan=False)] | None = None
    quality_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    compact_exits: Annotated[bool, Field(strict=True)] = False
    time_limit_s: Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)] = 3600.0
    limits: Limits = Limits()
    published: tuple[Beside, ...] = ()

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not DEVICE.fullmatch(device):
            raise ValueError(f"{device!r} is not a device; give cpu, cuda or cuda:N")
        return device

    @field_validator("methods", "tasks", "batch_sizes")
    @classmethod
    def _unique(cls, entries: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        what = {"methods": "label", "tasks": "task", "batch_sizes": "batch size"}[info.field_name or ""]
        seen: dict[Any, int] = {}
        for i, entry in enumerate(entries):
            key = getattr(entry, "title", getattr(entry, "name", entry))
            if key in seen:
                hint = "; give each entry a label of its own" if what == "label" else "; name it once"
                raise ValueError(f"{what} {key!r} stands at {seen[key]} and at {i}{hint}")
            seen[key] = i
        return entries

    @field_validator("methods")
    @classmethod
    def _baseline(cls, entries: tuple[MethodEntry, ...]) -> tuple[MethodEntry, ...]:
        if all(entry.name != BASELINE for entry in entries):
            raise ValueError(f"no entry is {BASELINE!r}, so there is nothing to compare with; add `- {BASELINE}`")
        return entries

    @model_validator(mode="after")
    def _prompts(self) -> Self:
        if not self.tasks and self.prompt_tokens is None:
            raise ValueError("tasks: none is given, so there are no prompts; name one, or give prompt_tokens")
        if self.tasks and any(self.checkpoint(entry).startswith("random:") for entry in self.methods):
            raise ValueError(
                "tasks: a random: shape has no trained weights and no tokenizer; leave tasks out, give prompt_tokens"
            )
        for entry in self.methods if not self.tasks else ():
            if "{task}" in self.checkpoint(entry):
                raise ValueError(f"model: {self.checkpoint(entry)} depends on the task, and tasks is empty; name one")
        return self

    @model_validator(mode="after")
    def _beside(self) -> Self:
        labels, tasks = [entry.title for entry in self.methods], [entry.name for entry in self.tasks]
        for i, beside in enumerate(self.published):
            for key, wanted, known in (("arms", beside.arms, labels), ("tasks", beside.tasks.values(), tasks)):
                if unknown := [name for name in wanted if name not in known]:
                    what = "label" if key == "arms" else "task"
                    raise ValueError(
                        f"published.{i}.{key}: no {what} of the suite is {unknown[0]!r}; {near(unknown[0], known)}"
                    )
        return self

    def default_label(self, entry: MethodEntry) -> str:
        """How an arm is named when its entry gives no label: name and parameters, e.g. `skipdecode(speedup=2)`."""
        return outside.short(entry.spec)

    def checkpoint(self, entry: MethodEntry) -> str:
        """The weights an arm runs on."""
        return entry.checkpoint or self.model

    def measures(self) -> dict[str, Any]:
        """The suite without what does not change a measurement: two runs that are equal in it may be one."""
        told = ("title", "description", "published", "time_limit_s", "limits", "quality_margin")
        return {key: value for key, value in self.plain().items() if key not in told}

    def plain(self) -> SuiteRecord:
        """The suite as JSON values, defaults filled in; `load_suite` reads it back as an equal suite."""
        values = self.model_dump(mode="json")
        values["methods"] = [entry.plain() for entry in self.methods]
        values["tasks"] = [entry.plain() for entry in self.tasks]
        return cast(SuiteRecord, values)


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites that come with the project."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_suite(name_or_path: str | Path, overrides: Sequence[str] = (), specs: Sequence[str] = ()) -> Suite:
    """Return a bundled suite by name, or the one in a YAML file; its methods are known and take the parameters given.

    Args:
        name_or_path: a name of `suite_names()`, or a file.
        overrides: `key=value` each; the key may be dotted (`methods.1.speedup`, `tasks.0.limit`), the value is YAML.
        specs: methods that stand in place of the suite's own, beside its full model.

    Raises:
        BadInput: no such suite or file, not YAML, or a key that is unknown, missing or out of range. One line
            that names the file and the key.
    """
    suite = read_suite(name_or_path, overrides, specs)
    check_methods(suite, _where(_find(name_or_path), overrides))
    return suite


def read_suite(name_or_path: str | Path, overrides: Sequence[str] = (), specs: Sequence[str] = ()) -> Suite:
    """As `load_suite`, but without a look at the methods, which would need torch."""
    path = _find(name_or_path)
    values = settings.read(path, "a suite needs at least model, methods, batch_sizes and tasks")
    for text in overrides:
        settings.override(values, text, Suite.model_fields, "methods.1.speedup=3", _expanded)
    _place_files(values, path.parent)
    if specs:
        own = [entry for entry in values.get("methods") or [] if _is_baseline(entry)]
        # On the suite's own model, where there is one: methods given by their specs run on that.
        own.sort(key=lambda entry: isinstance(entry, dict) and "checkpoint" in entry)
        values["methods"] = [*own[:1], *map(outside.absolute, specs)]
        values.pop("published", None)  # its tables stand beside arms that are gone
    try:
        return Suite.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        raise BadInput(f"{_where(path, overrides)}: {explain(error, Suite)}") from None


def check_methods(suite: Suite, where: str) -> None:
    """Raise BadInput, with `where`, the entry's place and the key, if a method is not known or does not take its parameters."""
    import methods

    for i, entry in enumerate(suite.methods):
        try:
            known = methods.parameters(entry.name)
        except BadInput as error:
            raise BadInput(f"{where}: methods.{i}: {error}") from None
        for key in entry.parameters:
            if key not in known:
                what = f"neither a key of an entry nor a parameter of {outside.short(entry.name)}"
                hint = near(key, [*known, *MethodEntry.model_fields], f"it takes {', '.join(known) or 'no parameters'}")
                raise BadInput(f"{where}: methods.{i}.{key}: {what}; {hint}")
        try:
            methods.create(entry.name, **entry.parameters)
        except BadInput as error:
            raise BadInput(f"{where}: methods.{i}: {error}") from None


def check_tasks(suite: Suite, known: Iterable[str]) -> None:
    """Raise BadInput, with the nearest name, if a suite asks for a task that is not known; lm-eval's are looked up later."""
    known = list(known)
    for i, entry in enumerate(suite.tasks):
        if not entry.is_lm_eval and entry.name not in known:
            raise BadInput(f"suite {suite.name}: tasks.{i}: {entry.name!r} is not known; {near(entry.name, known)}")


def _where(path: Path, overrides: Sequence[str]) -> str:
    return f"{path} with --set" if overrides else str(path)


def _is_baseline(entry: Any) -> bool:
    name = entry.get("name") if isinstance(entry, dict) else entry
    return isinstance(name, str) and name.strip() == BASELINE


def _expanded(entry: str) -> dict[str, Any]:
    """A method or task given as text, as a mapping whose keys can be set."""
    name, parameters = parse_spec(entry)
    return {"name": name, **parameters}


def _find(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    bundled = FOLDER / f"{name}.yaml"
    if name in suite_names():
        return bundled
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or path.is_dir():
        raise BadInput(f"suite: there is no file {name}; give a YAML file or one of {', '.join(suite_names())}")
    raise BadInput(f"suite: {name!r} is neither a bundled suite nor a file; {near(name, suite_names())}")


def _place_files(values: dict[str, Any], folder: Path) -> None:
    """Files of methods, and those named by `tuned`, are looked for beside the suite's own file first."""
    entries = values.get("methods")
    if not isinstance(entries, list):
        return
    for i, entry in enumerate(entries):
        if isinstance(entry, str):
            entries[i] = outside.absolute(entry, folder)
        if isinstance(entry, dict) and isinstance(entry.get("tuned"), str) and (folder / entry["tuned"]).is_file():
            entry["tuned"] = str(folder / entry["tuned"])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            entry["name"] = outside.absolute(entry["name"], folder)
