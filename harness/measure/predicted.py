"""The predicted speed-up: what decoding would cost if skipping were free, from the full model's own steps in the same process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from harness.measure.probes import fewer_blocks
from harness.records.fields import SpeedFields


def passes_s(heads: float, attended: float, fed: float, around: float, attention: float, feed: float) -> float:
    """Seconds of a token of a draft: so many passes, and sublayers run one after the other in them, at these seconds each.

    Running a block over the several columns of a verification is taken to cost what one column costs.
    """
    return heads * around + attended * attention + fed * feed


def add_predicted(
    full: SpeedFields | None, state: SpeedFields, fewer: Mapping[int, Sequence[float]], *, drafts: bool
) -> None:
    """Add the time per token if skipping were free: that of the full model's own step with as many of its blocks as a row ran.

    What is around the blocks is paid once per pass by a method that drafts (`passes_s`).
    """
    state["step_parts_s"] = state["predicted_step_s"] = state["predicted_full_step_s"] = None
    heads, attended, fed = (
        state["heads_per_token"], state["serial_attention_per_token"], state["serial_feed_per_token"],
    )  # fmt: skip
    if full is None or heads is None or attended is None or fed is None or not full["breakdown"]:
        return
    depth = full["depth"]
    step = statistics.median(seconds for run in full["runs"] for seconds in run["step_s"])
    # The instrumented pass has clocks in it, and the machine may run at another pace by then: its parts are taken as shares.
    pace = step / statistics.median(seconds for each in full["breakdown"] for seconds in each["step_s"])
    parts = {
        part: pace * statistics.median(seconds for each in full["breakdown"] for seconds in each["parts_s"][part])
        for part in ("embed", "attention", "feed", "head", "sampling")
    }
    # Fewer blocks are held against the full step of the same repeat, timed seconds before: a machine's pace wanders.
    beside = {run["repeat"]: statistics.median(run["step_s"]) for run in full["runs"] if not run.get("again")}
    points = [
        (n, step * min(statistics.median(s / beside.get(repeat, step) for repeat, s in enumerate(found)), 1.0))
        for n, found in fewer.items()
        if found
    ]
    points = (
        [*points, (depth, step)] if points else [(0, parts["embed"] + parts["head"] + parts["sampling"]), (depth, step)]
    )
    around = fewer_blocks.step_seconds(points, 0)
    alone = parts["attention"] + parts["feed"]
    # A block's sublayers, by their shares of what the blocks cost.
    whole = step - around
    attention, feed = (whole * parts[part] / alone / depth if alone else 0.0 for part in ("attention", "feed"))
    blocks = attended * attention + fed * feed
    ran = depth * blocks / whole if whole else 0.0
    state["step_parts_s"] = {
        "block": attention + feed,
        "attention": attention,
        "feed": feed,
        "head": parts["head"],
        "embed": parts["embed"],
        "rest": max(around - parts["head"] - parts["embed"], 0.0),
    }
    state["predicted_step_s"] = (
        passes_s(heads, attended, fed, around, attention, feed) if drafts else fewer_blocks.step_seconds(points, ran)
    )
    state["predicted_full_step_s"] = step
