"""What each figure shows, as numbers: a plot is data, which charts.py and spreads.py gather and any renderer draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats.intervals import Interval
from reports.view.parts import Swatch


@dataclass(frozen=True)
class Point:
    """One arm in the quality-speed plane."""

    name: str
    swatch: Swatch
    speed: Interval
    quality: Interval
    front: bool


@dataclass(frozen=True)
class TradeOff:
    """Quality against realised speed-up at one batch size."""

    batch: int
    quality_axis: str
    higher_is_better: bool
    points: tuple[Point, ...]
    full_quality: float
    margin: float


@dataclass(frozen=True)
class Series:
    """One arm's realised and ideal speed-up by batch size."""

    name: str
    swatch: Swatch
    realised: tuple[tuple[int, Interval], ...]
    ideal: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ByBatch:
    """Speed-up against batch size, one panel per arm; with `others`, the other arms stand faintly behind each."""

    batches: tuple[int, ...]
    series: tuple[Series, ...]
    others: bool


@dataclass(frozen=True)
class Rate:
    """One arm's tokens per second by batch size, all rows together."""

    name: str
    swatch: Swatch
    rates: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Rates:
    """Throughput against batch size: panels of arms, each beside full's."""

    batches: tuple[int, ...]
    full: Rate | None
    panels: tuple[tuple[str, tuple[Rate, ...]], ...]


@dataclass(frozen=True)
class Taxed:
    """One arm: (batch size, blocks a row needed on average, blocks the batch computed per token)."""

    name: str
    swatch: Swatch
    depths: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Tax:
    """What is lost because a batched step ends only when its last row exits, by batch size."""

    batches: tuple[int, ...]
    depth: int
    rows: tuple[Taxed, ...]


@dataclass(frozen=True)
class Broken:
    """One arm's decode step: (part, milliseconds)."""

    name: str
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a decode step goes, arm by arm, at one batch size."""

    batch: int
    rows: tuple[Broken, ...]


@dataclass(frozen=True)
class Promise:
    """One arm's way from target to realised speed-up."""

    name: str
    swatch: Swatch
    target: float | None
    layer_ratio: float | None
    ideal: float | None
    realised: Interval | None

    @property
    def values(self) -> list[float]:
        """Those that are known."""
        realised = self.realised.value if self.realised else None
        return [v for v in (self.target, self.layer_ratio, self.ideal, realised) if v is not None]


@dataclass(frozen=True)
class Promises:
    """Target, layer ratio, ideal and realised speed-up of every arm at one batch size."""

    batch: int
    rows: tuple[Promise, ...]


@dataclass(frozen=True)
class HeatPanel:
    """Share of rows that ran block l at decode step k, [steps, L]."""

    name: str
    share: np.ndarray
    layers_per_token: float


@dataclass(frozen=True)
class Heat:
    """Layers by position, one panel per arm."""

    panels: tuple[HeatPanel, ...]


@dataclass(frozen=True)
class DepthPanel:
    """Share of tokens that ran 1, 2, ... L blocks, [L], and the mean."""

    name: str
    swatch: Swatch
    share: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Depths:
    """How many blocks tokens ran, one panel per arm."""

    panels: tuple[DepthPanel, ...]


@dataclass(frozen=True)
class Curve:
    """An empirical distribution function: (milliseconds, share of steps at most that long)."""

    name: str
    swatch: Swatch
    ms: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True)
class StepTimes:
    """Distribution of the time between steps at one batch size: panels of curves, each beside full's."""

    batch: int
    full: Curve | None
    panels: tuple[tuple[str, tuple[Curve, ...]], ...]
