"""How often the interval of a speed ratio holds the truth, and what verdicts say, on times made up like a machine's. Torch-free.

    python -m harness.stats.coverage --samples 2000 --out results/statistics/coverage.csv

Times of two arms that stand first and last among `arms` in rounds that are turned around every second time (ABBA), as they are
measured. On top of the true ratio, on the log scale: 10 % noise that a round shares, `noise` of each time alone, and, by scenario,

- drifting: a slope over the process, 30 % from its start to its end (one standard deviation);
- autocorrelated: 10 % noise of the machine that keeps 0.9 of itself from one time to the next;
- processes differ: 3 % of the ratio that each process has of its own;
- stalls: a share of the times of one arm or of both, each 3 to 60 times as long (evenly on the log scale).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from harness.stats import intervals
from harness.stats.paired import Array, Pairs

SEED = 20
RATIO = 1.3
DESIGNS = ((1, 5), (1, 10), (2, 5), (3, 5), (3, 7), (5, 10))
"""Processes and repeats, those of the suites that come with the project among them."""
ROUND, SLOPE, MACHINE, KEEPS, DIFFER = 0.1, 0.3, 0.1, 0.9, 0.03
STALLS = (3.0, 60.0)
LASTING = (("drifting", 0.0), ("autocorrelated", 0.0), ("autocorrelated", 0.2))
"""Noise that goes on from one time to the next: for it matters how far two arms stand apart."""
LEFT = 0.6
"""Share of the pairs that must be left without a stall for an interval to be looked at; a run asks for more."""


@dataclass(frozen=True)
class Scenario:
    """How times come about.

    Attributes:
        processes: fresh processes.
        repeats: of each.
        kind: clean, drifting or autocorrelated.
        differ: whether processes differ.
        stalls: share of stalled times.
        where: whose times stall: full, method or both.
        noise: of each time alone, on the log scale.
        arms: in a round.
    """

    processes: int
    repeats: int
    kind: str = "clean"
    differ: bool = False
    stalls: float = 0.0
    where: str = "both"
    noise: float = 0.03
    arms: int = 2


@dataclass(frozen=True)
class Found:
    """What became of a scenario's samples, all in shares.

    Attributes:
        covered: of the intervals looked at, how many hold the truth.
        below: how many lie below it.
        above: how many lie above it.
        too_few: samples in which stalls left too few pairs, which have no interval.
        width: median of upper over lower end.
        different: samples that say faster or slower where the two arms are alike.
    """

    covered: float
    below: float
    above: float
    too_few: float
    width: float
    different: float


def scenarios() -> Iterator[Scenario]:
    """Every scenario of the committed table."""
    stalls = [("clean", share, where, 2) for share in (0.05, 0.2) for where in ("first", "second", "both")]
    lasting = [(kind, share, "both", arms) for kind, share in LASTING for arms in (2, 10)]
    kinds = [("clean", 0.0, "both", 2), *stalls, *lasting]
    for (processes, repeats), noise in itertools.product(DESIGNS, (0.03, 0.2)):
        for (kind, share, where, arms), differ in itertools.product(kinds, (False, True)):
            if not differ or processes > 1:  # one process cannot know how processes differ
                yield Scenario(processes, repeats, kind, differ, share, where, noise, arms)


def times(scenario: Scenario, rng: np.random.Generator, samples: int, ratio: float = RATIO) -> Array:
    """Times of full and of the method [samples, 2, P, R], without a unit."""
    p, r = scenario.processes, scenario.repeats
    turned = np.arange(r) % 2 == 1
    first = np.arange(r) * scenario.arms
    last = first + scenario.arms - 1
    place = np.stack([np.where(turned, last, first), np.where(turned, first, last)])  # [2, R]
    logs = np.zeros((samples, p, 2, r))
    if scenario.kind == "drifting":
        logs += rng.normal(0, SLOPE, (samples, p, 1, 1)) * place / (r * scenario.arms)
    if scenario.kind == "autocorrelated":
        machine = np.empty((samples, p, r * scenario.arms))
        machine[..., 0] = rng.normal(0, MACHINE, (samples, p))
        for i in range(1, machine.shape[2]):
            fresh = rng.normal(0, MACHINE * math.sqrt(1 - KEEPS**2), (samples, p))
            machine[..., i] = KEEPS * machine[..., i - 1] + fresh
        logs += machine[..., place]
    if scenario.differ:
        logs[:, :, 0] += rng.normal(0, DIFFER, (samples, p, 1))
    logs += rng.normal(0, ROUND, (samples, p, 1, r))
    logs += rng.normal(0, scenario.noise, logs.shape)
    hit = rng.random(logs.shape) < scenario.stalls
    for side, name in enumerate(("first", "second")):
        if scenario.where not in (name, "both"):
            hit[:, :, side] = False
    logs += np.where(hit, rng.uniform(math.log(STALLS[0]), math.log(STALLS[1]), logs.shape), 0)
    logs[:, :, 0] += math.log(ratio)
    return np.asarray(np.exp(logs).swapaxes(1, 2))


def simulate(scenario: Scenario, samples: int, seed: int = SEED) -> Found:
    """The interval of every sample beside the truth."""
    rng = np.random.default_rng(seed)
    repeats = np.full(scenario.processes, scenario.repeats)
    below = above = too_few = different = 0
    widths: list[float] = []
    for full, method in times(scenario, rng, samples):
        pairs = Pairs(full[..., None], method[..., None], repeats)
        found = intervals.interval_of(pairs.ratio_of_totals())
        if pairs.stalled > (1 - LEFT) * repeats.sum() or not found.known:
            too_few += 1
            continue
        below += found.high < RATIO
        above += found.low > RATIO
        widths.append(found.high / found.low)
        alike = Pairs(full[..., None] / RATIO, method[..., None], repeats)
        different += intervals.speed_verdict(intervals.interval_of(alike.ratio_of_totals())) in ("faster", "slower")
    seen = len(widths)
    return Found(
        covered=1 - (below + above) / seen,
        below=below / seen,
        above=above / seen,
        too_few=too_few / samples,
        width=float(np.median(widths)),
        different=different / samples,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table of every scenario."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--samples", type=int, default=2000, help="of every scenario")
    asked.add_argument("--seed", type=int, default=SEED)
    asked.add_argument("--out", type=Path, help="CSV file; default: standard output")
    given = asked.parse_args(arguments)
    header = [f.name for f in (*fields(Scenario), *fields(Found))]
    with given.out.open("w", newline="") if given.out else sys.stdout as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for scenario in scenarios():
            found = simulate(scenario, given.samples, given.seed)
            rounded = [f"{value:.4g}" for value in asdict(found).values()]
            writer.writerow([*asdict(scenario).values(), *rounded])


if __name__ == "__main__":
    main()
