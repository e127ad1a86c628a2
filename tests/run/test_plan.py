"""Plans: the estimates equal what the engine counts where they can be known, bound it where not, and nothing is run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness.cli import main as cli
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.measure.probes.reading import Reading
from harness.models import skeleton
from harness.models.shapes import SHAPES
from harness.records.folder import RunStore
from harness.run import costs, forecast, plan
from harness.run.costs import ABOUT, AT_MOST, EXACT
from harness.run.estimate import Work
from harness.run.progress import Progress
from harness.run.sweep import run_suite
from harness.state import GateState
from harness.suites.suite import Suite, load_suite, suite_names
from methods.calm import CALM
from tests.conftest import MODELS, VOCABULARY, tiny_opt
from tests.fakes import FakeExecutor

SCHEDULES = (
    "full",
    "skipdecode(speedup=2)",
    "fixed_exit(budget=2)",
    "unified_skip(speedup=2)",
    "random_skip(budget=3)",
)
BOUNDED = (
    "calm(confidence=softmax, threshold=0.3)",
    "calm(confidence=state, threshold=0.9)",
    "calm(confidence=classifier, threshold=0.5)",
    "layerskip(exit_layer=2, draft_tokens=3)",
)
ROWS, WIDTH, NEW = 3, 7, 9


def both(spec: str) -> tuple[costs.Generation, float, int]:
    """The estimate, and what the engine counted: FLOPs and elements of K/V."""
    decoder, method = tiny_opt(), methods.create(spec)
    ids = torch.randint(2, VOCABULARY, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0))
    out = generate(decoder, method, ids, max_new_tokens=NEW, stop_at_eos=False, expected_tokens=6)
    counted = flops.count(out.trace, decoder.geometry, 1, 1)
    estimate = costs.generation(method.resolve(decoder.depth, decoder.extras), decoder, ROWS, WIDTH, NEW, 6)
    return estimate, counted.prefill + counted.decode, out.kv_cache_bytes // decoder.dtype.itemsize


@dataclass(frozen=True)
class Odd(CALM):
    """An exit with a test of its own."""

    test: Any = None

    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        made: torch.Tensor = self.test(hidden)
        return made


def cost_of(test: Callable[[torch.Tensor], Any]) -> costs.Generation:
    return costs.generation(Odd(test=test), tiny_opt(), ROWS, WIDTH, NEW, 6)


def test_a_test_that_needs_numbers_has_no_known_cost() -> None:
    found = cost_of(lambda hidden: hidden[:, 0] > (0.0 if float(hidden.sum()) >= 0 else 1.0))
    assert found.flops is None and found.kv_elements


@pytest.mark.parametrize(
    "test, why",
    [
        (lambda hidden: hidden.certainty(), "AttributeError: 'Tensor' object has no attribute 'certainty'"),
        (lambda hidden: hidden + "1", "TypeError"),
        (lambda hidden: hidden @ hidden.new_zeros(3, 3), "RuntimeError"),
        (lambda hidden: {}["threshold"], "KeyError: 'threshold'"),
    ],
)
def test_a_bug_in_a_method_is_no_unknown_cost(test: Any, why: str) -> None:
    with pytest.raises(BadInput, match=f"calm: its exit test fails: {why}"):
        cost_of(test)


@pytest.mark.parametrize("spec", SCHEDULES)
def test_schedules_are_planned_as_they_run(spec: str) -> None:
    estimate, counted, elements = both(spec)
    assert estimate.bound == EXACT
    assert estimate.flops == counted
    assert estimate.kv_elements == elements


@pytest.mark.parametrize("spec", BOUNDED)
def test_what_is_decided_while_decoding_is_bounded(spec: str) -> None:
    estimate, counted, elements = both(spec)
    assert estimate.bound == AT_MOST
    assert estimate.flops is not None and estimate.flops >= counted
    assert estimate.kv_elements >= elements


def test_an_exit_that_never_happens_costs_the_bound() -> None:
    """The bound is reached: a threshold no confidence passes pays every block and every test."""
    spec = "calm(confidence=classifier, threshold=0.999999, decay=none)"
    estimate, counted, _ = both(spec)
    assert estimate.flops == pytest.approx(counted)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_without_weights_are_those_of_the_loaded_model(name: str) -> None:
    decoder = MODELS[name]()
    bare = skeleton.on_meta(name, decoder.source.config, torch.float32)
    assert bare.geometry == decoder.geometry
    assert bare.weight_bytes == decoder.weight_bytes
    assert all(p.device.type == "meta" for p in bare.source.parameters())


def test_sizes_by_name() -> None:
    assert skeleton.geometry("random:opt-1.3b").depth == 24
    assert skeleton.geometry("opt-e2e-mini/calm-700") == skeleton.geometry("random:opt-e2e-mini")
    # A folder that is not there yet has the sizes of the longest shape in its name.
    assert skeleton.geometry("./checkpoints/opt-1.3b-e2e-full").width == SHAPES["opt-1.3b"]["hidden_size"]
    with pytest.raises(BadInput, match="sizes of './weights/mine' are not known"):
        skeleton.geometry("./weights/mine")


@pytest.mark.parametrize("name", suite_names())
def test_every_bundled_suite_can_be_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite(name)
    monkeypatch.setattr(plan.energy, "counters", lambda device: [])
    found = plan.plan(suite, None)
    arms, batches = len(suite.methods), len(suite.batch_sizes)
    assert len(found.cells) == arms * (len(suite.tasks) + batches * (1 + suite.memory))
    assert len({cell.id for cell in found.cells}) == len(found.cells)
    # What lm-eval's tasks need depends on their documents: not estimated, and said so.
    unknown = {task.name for task in suite.tasks if task.name.startswith("lm_eval:")}
    assert all(any(f"task {name}:" in line for line in found.assumed) for name in unknown)
    known = [cell for cell in found.cells if cell.on not in unknown]
    assert len(known) == len(found.cells) - arms * len(unknown)
    assert all(cell.memory_bytes and cell.bound in (EXACT, ABOUT, AT_MOST) for cell in known)
    # What a row's earlier tokens decide is a test on numbers, which a plan does not have.
    assert {cell.label for cell in known if not cell.flops} <= {"Router-Tuning (once a prompt) 75 %"}
    by = {(cell.kind, cell.label, cell.on): cell.flops or 0 for cell in known}
    for (kind, label, on), value in by.items():
        if label.startswith("SkipDecode"):
            assert value < by[kind, "Full model", on]


@pytest.mark.parametrize("counters", [[], ["package-0"]])
def test_energy_is_planned_where_a_run_measures_it(
    counters: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plan had no energy cells, though runs make them wherever a counter can be read."""
    monkeypatch.setattr(plan.energy, "counters", lambda device: counters)
    suite = load_suite("smoke", ["energy=true"])
    planned = plan.plan(suite, None)
    workers = FakeExecutor()
    workers.counters = counters
    assert run_suite(suite, tmp_path, workers=workers).failed == 0
    assert {cell.id for cell in planned.cells} == RunStore(tmp_path, resume=True).ids("ok")
    assert any(line.startswith("energy: no counter") for line in planned.assumed) == (not counters)
    told = next(line for line in plan.lines(planned) if " cells (" in line)
    assert ("6 energy" in told) == bool(counters)
    assert not any(cell.flops for cell in planned.cells if cell.kind == "energy")


def test_the_plan_knows_that_full_is_timed_more_often_beside_many_arms() -> None:
    """Beside four arms the full model is timed twice a repeat, and every other arm once."""

    def speed_flops(arms: int) -> dict[str, float]:
        methods_ = ",".join(["full", *(f"fixed_exit(budget={n})" for n in range(1, arms + 1))])
        suite = load_suite("smoke", [f"methods=[{methods_}]", "model=opt-e2e-mini/full", "batch_sizes=[1]"])
        cells = plan.plan(suite, None).cells
        warm, runs = suite.warmup * suite.prompt_sets, suite.repeats
        return {cell.label: (cell.flops or 0) / (warm + runs) for cell in cells if cell.kind == "speed"} | {
            "twice": (warm + 2 * runs) / (warm + runs)
        }

    few, many = speed_flops(3), speed_flops(4)
    assert many["full"] == pytest.approx(few["full"] * many["twice"])
    assert many["fixed_exit(budget=1)"] == pytest.approx(few["fixed_exit(budget=1)"])


def test_what_is_missing_is_named() -> None:
    needs = "\n".join(plan.plan(load_suite("skipdecode-opt-1.3b"), None).needs)
    for wanted in (
        "./checkpoints/opt-1.3b-tldr-calm: no such folder",
        "1.32 billion parameters",
        "abisee/cnn_dailymail (3.0.0)",
        "trl-lib/tldr",
        "roberta-large",
    ):
        assert wanted in needs
    assert not plan.plan(load_suite("smoke"), None).needs
    hub = load_suite("smoke", ["model=facebook/opt-125m", "methods=[full]"])
    assert "weights facebook/opt-125m: from the hub" in "\n".join(plan.plan(hub, None).needs)
    ours = load_suite("smoke", ["model=opt-e2e-mini/base"])
    with pytest.raises(BadInput, match=r"not bundled: opt-e2e-mini/base; `depthbench train opt-e2e-mini-base --out"):
        plan.plan(ours, None)


def test_data_that_are_not_all_here_are_named_and_the_rest_is_planned(tmp_path: Path) -> None:
    """A folder with some of the suite's data: every cell all the same, and a line for each file that is missing."""
    (tmp_path / "cnn_dm").mkdir()
    (tmp_path / "cnn_dm" / "test.csv").write_text('article,highlights\n"A storm came.","Storm comes."\n')
    suite = load_suite("skipdecode-mini", ["tasks=[cnn_dm, tldr]", "published=[]"])
    found = plan.plan(suite.model_copy(update={"energy": False}), tmp_path)
    assert len(found.cells) == len(suite.methods) * (2 + 3 * 2) and all(cell.flops for cell in found.cells)
    needs = "\n".join(found.needs)
    assert "task tldr: no test file in" in needs and "put test.jsonl there" in needs
    assert "task cnn_dm has no training or validation references" in needs and "cnn_dm: no test file" not in needs
    assert any(line.startswith("task tldr: 6,553 examples") for line in found.assumed)


def test_a_plan_refuses_what_the_run_would() -> None:
    for override, said in (
        ("methods.2.warmup=20", "warmup=20"),
        ("tasks.0.metrics=[blue]", "has no metric 'blue'"),
        ("model=opt-e2e-mini/none", "no variant"),
        ("published=[{key: none}]", "'none' is not known"),
    ):
        with pytest.raises(BadInput, match=said):
            plan.plan(load_suite("smoke", [override]), None)


def test_the_command_prints_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rates = Reading(20.0, 1 << 28, 60.0, 1 << 23, 1 << 25, 1)
    monkeypatch.setattr(forecast.reading, "measure", lambda threads: rates)
    printed = []
    for more in ([], ["--verbose"]):
        monkeypatch.setattr("sys.argv", ["depthbench", "run", "smoke", "--set", "energy=false", "--plan", *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
            raise SystemExit(0)
        assert end.value.code == 0
        printed.append(capsys.readouterr().out)
    needed, time, cells = printed[0].splitlines()[:3]
    assert needed == "needed: nothing; everything is here" and time.startswith("time: roughly ")
    assert cells.startswith("15 cells (3 quality, 6 speed, 6 memory)")
    assert "quality--full-model" not in printed[0] and "quality--full-model" in printed[1]
    assert not list(tmp_path.iterdir())


def test_an_earlier_run_of_the_same_suite_says_how_long(tmp_path: Path) -> None:
    suite = load_suite("smoke")
    assert run_suite(suite, tmp_path, workers=FakeExecutor()).failed == 0
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    record |= {"started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:04:00+00:00"}
    path.write_text(json.dumps(record))
    assert forecast.minutes(suite, 1, 1, tmp_path) == f"about 4 minutes: what the run in {tmp_path} took"
    other = load_suite("smoke", ["repeats=7", "device=cuda"])
    assert forecast.minutes(other, 1, 1, tmp_path) == "", "another suite; and a GPU reads at a rate that nobody probed"


def test_the_jobs_that_are_weighed_are_those_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    suite = load_suite("smoke")
    seen: list[Work] = []
    monkeypatch.setattr(Progress, "plan", lambda self, works, pace, slots: seen.extend(works))
    run_suite(suite, tmp_path, workers=FakeExecutor())
    assert Counter(work for work in seen if work.kind != "join") == Counter(forecast.works(suite))


def test_a_task_dependent_model_needs_a_task() -> None:
    with pytest.raises(ValueError, match="depends on the task"):
        Suite.model_validate(
            {"name": "x", "model": "./w-{task}", "methods": ["full"], "batch_sizes": [1], "prompt_tokens": 8}
        )


def test_weights_that_a_recipe_makes_are_not_looked_for_on_the_hub() -> None:
    needs = plan.plan(load_suite("e2e-per-target"), None).needs
    assert any(line.startswith("weights opt-e2e-mini-skipdecode-2x: depthbench train ") for line in needs)
    assert not any("hub" in line for line in needs if line.startswith("weights opt-e2e-mini"))
