"""A setting that was tried on validation data: what is known of it, in numbers, as JSON and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records.fields import QualityFields
from harness.stats import intervals as stats
from harness.tune.trials import Setup, Trials

Json = dict[str, Any]


@dataclass
class Try:
    """One setting and what is known of it on the validation data; None where it was not measured.

    Attributes:
        name: of the setting.
        score: its metric.
        loss: of the metric against the full model, positive is worse.
        layer_ratio: depth over the layers a token ran.
        layers_per_token: those layers.
        executed_share: weight bytes of the blocks that a token ran, over those of all blocks.
        speedup: realised.
        predicted: predicted speed-up of a draft, of its passes on the scored outputs (`Trials.predicted`).
        note: why it is out; empty for those that could be chosen.
    """

    name: str
    score: stats.Interval | None = None
    loss: stats.Interval | None = None
    layer_ratio: float | None = None
    layers_per_token: float | None = None
    executed_share: float | None = None
    speedup: stats.Interval | None = None
    predicted: float | None = None
    note: str = ""

    def fast(self, by: str) -> float | None:
        """How fast it is by the measure asked for."""
        if by != "time":
            return self.layer_ratio if by == "layers" else self.predicted
        return None if self.speedup is None else self.speedup.value

    def plain(self) -> Json:
        """As JSON values."""
        intervals = {"score": self.score, "loss": self.loss, "speedup": self.speedup}
        return {
            "setting": self.name,
            **{name: None if value is None else interval_plain(value) for name, value in intervals.items()},
            "layers_per_token": self.layers_per_token,
            "layer_ratio": self.layer_ratio,
            "executed_share": self.executed_share,
            "predicted": self.predicted,
            "note": self.note,
        }


def score(trials: Trials, place: int, one: Try, depth: int) -> None:
    """Fill in what the scored cell of a setting says."""
    cell, setup = trials.quality(place), trials.setup
    one.score = value_of(setup, cell)
    mine, full = (_statistics(setup, c) for c in (cell, trials.quality(None)))
    difference = stats.paired_difference(mine, full, setup.scored.combine)
    sign = -1.0 if setup.scored.better == "higher" else 1.0
    low, high = sorted((sign * difference.low, sign * difference.high))
    one.loss = stats.Interval(sign * difference.value + 0.0, low, high, difference.n)
    one.layers_per_token = cell["layers_per_token"]
    one.executed_share = cell.get("executed_share")
    one.layer_ratio = depth / one.layers_per_token if one.layers_per_token else None


def _statistics(setup: Setup, cell: QualityFields) -> np.ndarray:
    return np.array([row["stats"][setup.metric] for row in cell["examples"]], dtype=np.float64)


def value_of(setup: Setup, cell: QualityFields) -> stats.Interval:
    """The metric of a cell with its interval."""
    return stats.bootstrap_metric(_statistics(setup, cell), setup.scored.combine)


def interval_plain(interval: stats.Interval) -> Json:
    """An interval as JSON values; its ends are None where they are not known."""
    return {
        "value": interval.value,
        "low": interval.low if interval.known else None,
        "high": interval.high if interval.known else None,
        "n": interval.n,
    }


def line(one: Try, metric: str) -> str:
    """What is known of a setting, in words."""
    parts = []
    if one.score is not None and one.loss is not None:
        parts.append(f"{metric} {one.score.value:.1f}, loss {_text(one.loss, 2)}")
    if one.layers_per_token is not None and one.layer_ratio is not None:
        parts.append(f"{one.layers_per_token:.1f} layers per token ({one.layer_ratio:.2f}x fewer)")
    if one.executed_share is not None:
        parts.append(f"{100 * one.executed_share:.0f} % of the blocks' bytes")
    if one.predicted is not None:
        parts.append(f"predicted speed-up {one.predicted:.2f}")
    if one.speedup is not None:
        parts.append(f"speed-up {_text(one.speedup, 2)}")
    return "; ".join(parts)


def _text(interval: stats.Interval, digits: int) -> str:
    value = f"{interval.value:.{digits}f}"
    return f"{value} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if interval.known else value


def table(record: Json) -> list[tuple[str, ...]]:
    """The trace of an artefact as rows of text, the first one the header."""
    metric = record["goal"]["metric"]
    rows: list[tuple[str, ...]] = [
        (
            "setting",
            metric,
            "loss [95 %]",
            "layers",
            "layer ratio",
            "block bytes",
            "predicted",
            "speed-up [95 %]",
            "out because",
        )
    ]
    for one in record["trace"]:
        rows.append(
            (
                one["setting"],
                _cell(one["score"], 1, ends=False),
                _cell(one["loss"], 2),
                "" if one["layers_per_token"] is None else f"{one['layers_per_token']:.1f}",
                "" if one["layer_ratio"] is None else f"{one['layer_ratio']:.2f}",
                "" if one["executed_share"] is None else f"{100 * one['executed_share']:.0f} %",
                "" if one["predicted"] is None else f"{one['predicted']:.2f}",
                _cell(one["speedup"], 2),
                one["note"],
            )
        )
    return rows


def cost_line(cost: Json) -> str:
    """A cost in words."""
    return (
        f"cost: {cost['trials']} settings scored ({cost['scored_examples']} examples, {cost['generated_tokens']} tokens), "
        f"{cost['timed']} timed, {cost['seconds']:.1f} s ({cost['cpu_seconds']:.1f} s of CPU time)"
    )


def _cell(value: Json | None, digits: int, ends: bool = True) -> str:
    if value is None:
        return ""
    interval = f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]" if ends and value["low"] is not None else ""
    return f"{value['value']:.{digits}f}{interval}"
