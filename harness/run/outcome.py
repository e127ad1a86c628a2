"""What came out of one cell, in a few words, for whoever watches a run. Torch-free."""

from __future__ import annotations

import numpy as np

from harness.records import believable, measures, readings, usability
from harness.records.cells import Cell, QualityCell, SpeedCell
from harness.records.clock import Clock
from harness.suites.suite import Suite


def outcome(cell: Cell, base: SpeedCell | None, suite: Suite) -> str:
    """The result of a cell; of a timed one beside the full model's at the same batch size, where there is one."""
    if cell["status"] != "ok":
        return f"failed: {cell.get('error')}"
    if cell["kind"] == "quality":
        return _score(cell)
    if cell["kind"] == "memory":
        size, _ = measures.peak(cell)
        return "not measurable" if size is None else f"{size:.0f} MB"
    if cell["kind"] == "energy":
        joules = measures.real(cell.get("energy_j_per_token"))
        return "not measurable" if joules is None else f"{joules:.3g} J a token"
    if base is not None and base["id"] != cell["id"]:
        judged = usability.beside(base, cell, suite.limits, on_cpu=suite.device == "cpu")
        if judged.speedup is None:
            return f"unusable: {judged.usability.reason}"
        found, state = judged.speedup, judged.usability.state
        said = f"{found.value:.2f}x [{found.low:.2f}, {found.high:.2f}]"
        if state != usability.USABLE:
            said = f"{said}, {state}: {judged.usability.reason}"
        return "; ".join(filter(None, (said, _work(base, cell), believable.explanation(base, cell, found))))
    seconds = Clock.of(cell).seconds_per_token()
    return "no times" if seconds is None else f"{1e3 * seconds.value:.3g} ms a token"


def _work(full: SpeedCell, cell: SpeedCell) -> str:
    """What a decoded token of a timed cell executes and reads, and what reading less allows."""
    blocks, attention, feed = (
        measures.real(cell.get(key)) for key in ("layers_per_token", "attention_per_token", "feed_per_token")
    )
    said = []
    if attention is not None and feed is not None and attention != feed:
        said.append(f"{attention:.1f} attention and {feed:.1f} feed-forward sublayers of {cell.get('depth')} each")
    elif blocks is not None:
        said.append(f"{blocks:.1f} of {cell.get('depth')} blocks")
    weights, limit = measures.ratio(cell.get("weight_bytes_per_token"), 1e6), believable.byte_limit(full, cell)
    if weights is not None and limit is not None:
        said.append(f"{weights:.3g} MB of weights a token, byte limit {limit:.2f}")
    return ", ".join(said)


def _score(cell: QualityCell) -> str:
    """The first metric of a task."""
    examples = {str(example["id"]): example for example in cell.get("examples") or []}
    for name in next((example.get("stats") or {} for example in examples.values()), {}):
        how, rows = readings.reading(name), measures.statistics_of(examples, examples, name)
        if how is not None and rows is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                return f"{name} {float(how.combine(np.asarray(rows, dtype=np.float64).sum(0))):.1f}"
    return f"{len(examples)} examples"
