"""What a report says: numbers, verdicts, what it refuses to compare, and what it leaves out and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.records.run import load as load_one
from harness.records.summary import summarise
from reports.facts.facts import Facts, gather
from reports.facts.load import load
from reports.view.answer import sentences
from reports.view.parts import Figure, Fold, Hero, RunView, Sample, Table, Warnings
from reports.view.samples import compare
from reports.view.verdicts import verdict_table
from reports.write.report import write_report
from reports.write.view import build
from tests.reports.page import Page
from tests.reports.synthetic import ARMS, FULL, Synthetic, arm_record, edit_cells, write_cell, write_run


def facts_of(folder: Path) -> Facts:
    return gather(load([folder])[0])


def view_of(*folders: Path) -> RunView:
    return build([load([f])[0] for f in folders]).runs[0]


def column(table: Table, title: str, unit: str | None = None) -> list[str]:
    index = next(i for i, c in enumerate(table.columns) if c.title == title and unit in (None, c.unit))
    return [row[index].text for row in table.rows]


def blocks(view: RunView, kind: type) -> list[Any]:
    found: list[Any] = []

    def walk(items: tuple[Any, ...]) -> None:
        for item in items:
            if isinstance(item, kind):
                found.append(item)
            if isinstance(item, Fold):
                walk(item.blocks)
            if isinstance(item, Hero):
                walk(tuple(figure for _, figure in item.figures))

    for section in view.sections:
        walk(section.blocks)
    return found


def speed_body(step_s: float, steps: int = 8, repeats: int = 6) -> dict[str, Any]:
    runs = [
        {
            "process": p,
            "repeat": r,
            "order": 0,
            "prompt_set": 0,
            "ttft_s": 0.01,
            "step_s": [step_s * (1 + 0.01 * r)] * steps,
        }
        | {"step_tokens": [2] * steps}
        for p in range(2)
        for r in range(repeats)
    ]
    return {
        "batch_size": 2, "new_tokens": steps + 1, "prompt_tokens": 5, "prompts_hash": "p", "runs": runs, "depth": 4,
        "layers_by_position": [[1, 0, 0, 1]] * steps, "layers_per_token": 2.0, "computed_layers_per_token": 2.0,
        "flops_per_token": 100.0, "exit_test_flops_per_token": 0.0, "fill_flops_per_token": 0.0,
        "head_flops_per_token": 10.0,
        "prefill_flops": 1.0, "weight_bytes_per_token": 10.0, "kv_cache_bytes": 10, "kv_written_bytes": 10,
        "step_parts_s": {"block": 0.001, "head": 0.001, "embed": 0.0, "rest": 0.0}, "ideal_step_s": 0.003,
        "ideal_full_step_s": 0.006, "tokens_hash": "t", "finite": True,
    }  # fmt: skip


def hand_made(folder: Path, **times: float) -> Path:
    """A run whose decode steps take exactly the given seconds."""
    arms = [
        FULL,
        *(
            Synthetic(name, "skipdecode", "schedule", {"speedup": 3}, trained="trained")
            for name in times
            if name != "full"
        ),
    ]
    write_run(folder, arms, (), ())
    for arm in arms:
        name = "full" if arm is FULL else arm.label
        write_cell(folder, "speed", arm_record(arm), {"dtype": "float32"}, "b2", speed_body(times[name]))
    return folder


def test_speed_up_is_the_ratio_of_decode_times(tmp_path: Path) -> None:
    facts = facts_of(hand_made(tmp_path / "run", full=0.006, twice=0.003, slow=0.008))
    table = verdict_table(facts)
    assert column(table, "batch 2") == ["1", "2.00†", "0.75"]
    assert [row[1].tone for row in table.rows] == ["", "good", "bad"]
    twice = facts.speed["twice", 2]
    assert twice.number("predicted_speedup") == pytest.approx(2.0)
    assert twice.number("efficiency") == pytest.approx(1.0)


def test_what_weights_cost_stands_in_every_table_that_names_the_arm(small_run: Path) -> None:
    record = json.loads((small_run / "run.json").read_text())
    record["arms"][1]["training"] = {"tokens": 1_860_000, "seconds": 700.0, "device": "a processor"}
    (small_run / "run.json").write_text(json.dumps(record))
    view, name = view_of(small_run), record["arms"][1]["label"]
    heads = [row[0] for table in blocks(view, Table) if table.columns[0].title == "Method" for row in table.rows]
    assert len([head for head in heads if head.text == name]) >= 4
    for head in heads:
        assert ("training: 1.86 M tokens, 12 min" in head.detail) == (head.text == name), head
    needs = next(table for table in blocks(view, Table) if table.id == "top")
    assert [row[-1].detail for row in needs.rows if row[0].text == name] == ["here on a processor"]


def test_target_and_executed_stand_beside_realised(tmp_path: Path) -> None:
    view = view_of(hand_made(tmp_path / "run", full=0.006, twice=0.003))
    table = next(t for t in blocks(view, Table) if t.id == "promise")
    assert column(table, "target") == ["3.0"]
    assert column(table, "layer ratio") == ["2.00"]
    assert column(table, "realised") == ["2.00†"], "twice as fast though it reads as many bytes"


@pytest.fixture
def sublayer_run(tmp_path: Path) -> RunView:
    """Full, a schedule, and a method that skips feed-forward sublayers alone and was profiled; full is slow for what it reads."""
    folder = write_run(tmp_path / "run", (FULL, ARMS[1], ARMS[-1]), (1, 4), examples=12, new_tokens=24)
    edit_cells(folder, "speed-ffn*-b4*", weight_bytes_per_token=1.0e9)
    return view_of(folder)


def test_sublayers_bytes_and_limits_stand_beside_every_speed_up(sublayer_run: RunView) -> None:
    table = next(t for t in blocks(sublayer_run, Table) if t.id == "work")
    assert column(table, "blocks")[2] == column(table, "attention")[2] == "24.0" != column(table, "feed-forward")[2]
    assert not any(c.title == "one after the other" for c in table.columns), (
        "it says more only where drafts are verified"
    )
    limits, realised = column(table, "byte limit"), column(table, "realised")
    assert all(column(table, "weights read per token")) and float(limits[1]) > 1 > float(limits[5])
    why = column(table, "Above its byte limit or the predicted")
    assert realised[5].endswith("†") and "bound by the host" in why[5] and not realised[1].endswith("†")
    for name in ("top", "verdicts"):
        every = next(t for t in blocks(sublayer_run, Table) if t.id == name)
        attention = dict(zip((row[0].text for row in every.rows), column(every, "attention"), strict=True))
        assert attention["FFN-SkipLLM 35%"] == "24.0", name
        assert all(column(every, "weights read")) and float(column(every, "byte limit")[1]) > 1, name
    assert "† Above the byte limit: FFN-SkipLLM 35% at batch 4: the baseline was bound by the host" in every.note


def test_sublayers_are_drawn_apart(sublayer_run: RunView) -> None:
    heat = next(f for f in blocks(sublayer_run, Figure) if f.id == "fig-layers").plot
    names = [panel.name for panel in heat.panels]
    assert names == ["SkipDecode 2x", "FFN-SkipLLM 35%, feed-forward"], "all of its attention runs"
    assert heat.panels[1].share.mean() < 1
    promises = next(f for f in blocks(sublayer_run, Figure) if f.id == "fig-promise")
    assert all(row.byte_limit for row in promises.plot.rows) and "byte limit" in promises.alt


def test_the_cost_of_a_profile_stands_beside_what_rests_on_it(sublayer_run: RunView) -> None:
    for name in ("top", "verdicts", "work", "promise", "times"):
        table = next(t for t in blocks(sublayer_run, Table) if t.id == name)
        details = {row[0].text: row[0].detail for row in table.rows}
        assert "profile, 19 s" in details["FFN-SkipLLM 35%"] and "profile" not in details["SkipDecode 2x"]


def test_verdicts_of_the_quick_run(quick_run: Path) -> None:
    facts = facts_of(quick_run)
    labels = [arm.label for arm in facts.arms]
    verdicts = dict(zip(labels, (row[1].text for row in verdict_table(facts).rows), strict=True))
    assert verdicts["Full model"] == "baseline"
    assert verdicts["Random skip 12"] == "loses quality"
    assert verdicts["SkipDecode 2x, schedule only"] == "loses quality"
    assert verdicts["SkipDecode 2x"] in ("keeps quality", "not enough data")
    assert facts.speed["CALM softmax 0.9", 16].verdict == "slower"
    assert facts.speed["SkipDecode 5x", 1].verdict == "faster"
    told = sentences(facts)
    assert [line.split(",")[0] for line in told] == ["Batch 1", "Batch 4", "Batch 16"], (
        "one sentence for each batch size"
    )


def test_an_untrained_schedule_says_so(quick_run: Path) -> None:
    rows = verdict_table(facts_of(quick_run)).rows
    detail = {row[0].text: row[0].detail for row in rows}
    assert detail["SkipDecode 2x, schedule only"] == "schedule only"
    assert detail["SkipDecode 2x"] == "trained"
    hollow = {row[0].text: row[0].swatch.hollow for row in rows if row[0].swatch}
    assert hollow["Random skip 12"] and not hollow["SkipDecode 2x"]


def test_other_conditions_are_refused_and_named(small_run: Path) -> None:
    file = next((small_run / "cells").glob("speed-skipdecode-2x-b1.json"))
    cell = json.loads(file.read_text())
    edit_cells(small_run, file.name, conditions=cell["conditions"] | {"dtype": "bfloat16"}, conditions_hash="other")
    view = view_of(small_run)
    verdicts = next(t for t in blocks(view, Table) if t.id == "verdicts")
    assert column(verdicts, "batch 1")[1] == "–"
    warning = blocks(view, Warnings)[-1]
    assert any("dtype float32 against bfloat16" in item for item in warning.items)


def test_samples_show_the_largest_change_first(small_run: Path) -> None:
    file = next((small_run / "cells").glob("quality-skipdecode-2x-restaurants.json"))
    cell = json.loads(file.read_text())
    ruined = cell["examples"][7]
    ruined["output"] = "nothing of the kind"
    ruined["stats"]["rougeL"] = [0.0, 1.0]
    edit_cells(small_run, file.name, examples=cell["examples"])
    samples = blocks(view_of(small_run), Sample)
    assert samples[0].title.startswith("restaurants-7: changed most, under SkipDecode 2x")
    assert any("drawn at random" in s.title for s in samples)


@pytest.mark.parametrize("broken", [False, True])
def test_samples_show_the_score_of_each_arm(small_run: Path, broken: bool) -> None:
    """ROUGE-L of one example is its statistic; an arm whose statistics cannot be read has a dash, and no other arm has."""
    file = next((small_run / "cells").glob("quality-skipdecode-2x-restaurants.json"))
    if broken:
        cell = json.loads(file.read_text())
        for example in cell["examples"]:
            del example["stats"]["rougeL"]
        edit_cells(small_run, file.name, examples=cell["examples"])
    facts = facts_of(small_run)
    names = {arm.short: arm.label for arm in facts.arms}
    for sample in blocks(view_of(small_run), Sample):
        ident, place = sample.title.partition(":")[0], sample.score_names.index("ROUGE-L")
        assert {o.name for o in sample.outputs} == set(names)
        for output in sample.outputs:
            found = facts.examples[names[output.name], "restaurants"][ident]["stats"].get("rougeL")
            assert output.scores[place] == ("–" if found is None else f"{found[0] / found[1]:.0f}")


def test_compare_marks_words() -> None:
    assert compare("a b c d", "a x c") == (("a", False), ("x", True), ("c", False), ("–", True))
    assert compare(None, "a b") == (("a b", False),)
    assert compare("a", "  ") == (("(empty)", False),)


WITHOUT = {
    "quality": ("speed", "memory"),
    "speed": ("memory", "quality"),
    "memory": ("speed", "quality"),
    "all but memory": ("memory",),
    "everything": (),
}


@pytest.mark.parametrize("kinds", WITHOUT.values(), ids=[f"without {name}" for name in WITHOUT])
def test_missing_kinds_give_a_smaller_report(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    folder = write_run(tmp_path / "run", ARMS[:2], (1,), examples=6, new_tokens=12, kinds=kinds)
    page = Page(write_report([folder]).read_text(encoding="utf-8"))
    text = page.text()
    if "quality" not in kinds:
        assert "no scored cells" in text
    for kind in {"speed", "memory", "quality"}.difference(kinds):
        assert re.search(rf"Not in this run: [^.]*{kind}", text)
    assert "nan" not in text.lower().split()


def test_failed_cells_are_listed_and_nothing_else_is_lost(small_run: Path) -> None:
    assert (
        edit_cells(small_run, "speed-calm*", status="failed", error="RuntimeError: out of memory\nat line 3", runs=None)
        == 1
    )
    view = view_of(small_run)
    failed = next(t for t in blocks(view, Table) if t.id == "failed")
    assert column(failed, "Error") == ["RuntimeError: out of memory at line 3"]
    table = next(t for t in blocks(view, Table) if t.id == "verdicts")
    assert column(table, "batch 1") == ["1", *column(table, "batch 1")[1:3], "–"]


def test_every_cell_failed(small_run: Path) -> None:
    edit_cells(small_run, "*.json", status="failed", error="killed")
    assert "No cell of this run succeeded" in sentences(facts_of(small_run))[0]
    write_report([small_run])


@pytest.mark.parametrize(
    ("pattern", "column", "changes"),
    [
        (
            "speed-*",
            "predicted_speedup",
            {"layers_by_position": None, "step_parts_s": None, "ideal_step_s": None, "flops_per_token": None},
        ),
        ("memory-*", "peak_memory_mb", {"peak_rss_bytes": None, "baseline_rss_bytes": None, "weights_bytes": None}),
        ("quality-skip*", "restaurants/bleu", {"examples": []}),
        (
            "quality-*",
            "restaurants/layers_per_token",
            {"layers_by_position": [], "layers_per_token": None, "split": None},
        ),
        ("speed-*", "layer_ratio", {"conditions": {}, "depth": None}),
    ],
    ids=["speed fields", "memory fields", "no examples", "quality fields", "no conditions"],
)
def test_unmeasured_fields_are_empty(small_run: Path, pattern: str, column: str, changes: dict[str, Any]) -> None:
    """Empty in the table of every arm it was not measured of, and no placeholder anywhere on the page."""

    def measured() -> int:
        return sum(row[column] is not None for row in summarise(load_one(small_run)))

    before = measured()
    assert edit_cells(small_run, pattern, **changes)
    assert measured() < before
    text = Page(write_report([small_run]).read_text(encoding="utf-8")).text()
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_a_bare_run_record(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, "name": "bare", "arms": [], "suite": {}}))
    text = Page(write_report([tmp_path]).read_text(encoding="utf-8")).text()
    assert "no full model" in text


def test_one_arm_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ARMS[:1], (1,), examples=6, new_tokens=12)
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text()
    assert "holds the full model alone" in text
    assert "There is nothing to compare it with." in text


def test_few_repeats_are_inconclusive(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ARMS[:2], (1,), examples=6, new_tokens=12, processes=1, repeats=3)
    facts = facts_of(folder)
    assert facts.speed["SkipDecode 2x", 1].verdict == "inconclusive"
    warning = blocks(view_of(folder), Warnings)[-1]
    assert any("fewer than 5" in item for item in warning.items)


def test_percentiles_only_where_n_supports_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ARMS[:2], (1,), examples=6, new_tokens=6, processes=1, repeats=5)
    table = next(t for t in blocks(view_of(folder), Table) if t.id == "times")
    assert column(table, "n") == ["25", "25"]
    assert "–" not in column(table, "p90")
    assert "p99" not in [c.title for c in table.columns]


def test_two_runs_stand_apart_and_the_difference_is_named(small_run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", ARMS[:2], (1,), examples=6, new_tokens=12, dtype="bfloat16", name="half")
    report = build([load([small_run])[0], load([other])[0]])
    assert len(report.runs) == 2
    assert any("dtype float32 against bfloat16" in line for line in report.lead)
    for view in report.runs:
        verdicts = next(t for t in blocks(view, Table) if t.id.endswith("verdicts"))
        assert len({row[0].text for row in verdicts.rows}) == len(verdicts.rows)
    page = Page(write_report([small_run, other], tmp_path).read_text(encoding="utf-8"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_same_folder_twice_is_one_run(small_run: Path) -> None:
    from reports.facts.load import load

    assert len(load([small_run, small_run / ".." / small_run.name])) == 1


def test_figures_have_words_and_a_run_its_conditions(quick_run: Path) -> None:
    view = view_of(quick_run)
    assert all(figure.alt.endswith(".") for figure in blocks(view, Figure))
    (told,) = (line for line in view.setting if line.startswith("Speed"))
    assert "n = 10 repeats" in told and "float32 on Example Xeon" in told


@pytest.mark.parametrize("folders", [[], ["missing"]])
def test_bad_folders(tmp_path: Path, folders: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        write_report([tmp_path / f for f in folders])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot write"):
        write_report([small_run], tmp_path / "file" / "report.html")
