"""Numbers of single cells, and of a cell beside the full model's: what summary.csv is made of. Torch-free.

Values are None where the cell does not tell, never 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.stats import intervals

if TYPE_CHECKING:  # the table of quantities is made with these, and cells are checked by it
    from harness.records.cells import QualityCell, SpeedCell
    from harness.records.fields import Example, SpeedFields

Row = dict[str, Any]
Times = dict[tuple[int, int, int], tuple[float, float]]

PARTS = ("embed", "attention", "feed", "head", "exit_tests", "kv_fill", "sampling", "host")
"""Parts of a decode step, as `harness.measure.probes.breakdown` names them."""


def real(value: Any) -> float | None:
    """The value as a finite float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def ratio(above: Any, below: Any) -> float | None:
    """The quotient where both are finite and the divisor is not 0."""
    numerator, divisor = real(above), real(below)
    return numerator / divisor if numerator is not None and divisor else None


@dataclass(frozen=True)
class Paired:
    """Decode times of full and of a method, repeat by repeat: [P][R][K], 0 where a repeat did not time a prompt set."""

    full: list[list[list[float]]]
    method: list[list[list[float]]]

    def ratio_of_totals(self) -> intervals.Interval:
        """The headline: total decode time of full over that of the method."""
        full, method = ([[math.fsum(r) for r in p] for p in arm] for arm in (self.full, self.method))
        return intervals.bootstrap_ratio(full, method)

    def geometric_mean(self) -> intervals.Interval:
        """The second number: the mean of the prompts' own ratios, every prompt counting once."""
        return intervals.bootstrap_geometric_mean(self.full, self.method)


def paired(full: SpeedFields, cell: SpeedFields) -> Paired | None:
    """The times of two cells, paired by process, repeat and prompt set; None if nothing can be paired."""
    return paired_times(times(full), times(cell))


def paired_times(theirs: Times, ours: Times) -> Paired | None:
    """The same from what `times` returns of full and of the method.

    Prompt sets of one repeat are not independent of each other: repeats are what is resampled. Times per generated token are
    compared where the two did not generate equally many.
    """
    shared = sorted(key for key in theirs if key in ours)
    equal = all(ours[key][1] == theirs[key][1] for key in shared)
    prompts = {prompt: place for place, prompt in enumerate(sorted({key[2] for key in shared}))}
    units: dict[int, dict[int, tuple[list[float], list[float]]]] = {}
    for process, repeat, prompt in shared:
        empty = ([0.0] * len(prompts), [0.0] * len(prompts))
        unit = units.setdefault(process, {}).setdefault(repeat, empty)
        for side, (seconds, tokens) in zip(unit, (of[process, repeat, prompt] for of in (theirs, ours)), strict=True):
            side[prompts[prompt]] += seconds if equal else seconds / tokens
    if not units:
        return None
    above, below = ([[unit[i] for unit in repeats.values()] for repeats in units.values()] for i in (0, 1))
    return Paired(above, below)


def speedup(full: SpeedFields, cell: SpeedFields) -> intervals.Interval | None:
    """The realised speed-up: decode time of full over the method's; None if nothing can be paired."""
    found = paired(full, cell)
    return found.ratio_of_totals() if found else None


def dispersion(cell: SpeedFields) -> float | None:
    """Interquartile range over median of a cell's decode times, those of one prompt set against each other."""
    return dispersion_of(times(cell))


def dispersion_of(found: Times) -> float | None:
    """The same from what `times` returns."""
    groups: dict[int, list[float]] = {}
    for (_, _, prompt), (seconds, tokens) in found.items():
        groups.setdefault(prompt, []).append(seconds / tokens)
    return intervals.dispersion(list(groups.values()))


def batch_tax(cell: SpeedCell) -> float | None:
    """Blocks the batch computed per token over those its rows needed on average: 1 without batching; gates and exits only."""
    if cell["arm"].get("family") not in ("gate", "exit"):
        return None
    return ratio(cell.get("computed_layers_per_token"), cell.get("layers_per_token"))


def breakdown(cell: SpeedFields) -> Row:
    """Milliseconds per token of each part of a decode step, medians over the instrumented steps."""
    rows, found = cell.get("batch_size"), cell.get("breakdown") or []
    if not found or not rows:
        return {}
    row: Row = {}
    for part in PARTS:
        # A step that yields several tokens per row (drafts) counts as its share.
        each = [
            seconds * rows / tokens
            for one in found
            for seconds, tokens in zip(one["parts_s"].get(part) or [], one["step_tokens"], strict=False)
            if tokens
        ]
        row[f"{part}_ms"] = 1e3 * statistics.median(each) if each else None
    return row


def peak(cell: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Peak memory in 10^6 bytes and what it is of: the allocator's peak on a GPU, the resident set elsewhere."""
    for key, kind in (("cuda_peak_allocated_bytes", "CUDA allocated"), ("peak_rss_bytes", "resident set")):
        if (value := ratio(cell.get(key), 1e6)) is not None:
            return value, kind
    return None, None


def read_rate(cell: SpeedCell) -> float | None:
    """10^9 bytes per second that the cores read from memory, in the process where they read fastest."""
    return max((one["memory_gb_per_s"] for one in cell.get("reading") or []), default=None)


def request_ms(cell: QualityCell) -> float | None:
    """Time per request of a scored task: natural end of sequence, the batch's time shared by its rows."""
    batches = cell.get("batches") or []
    seconds = real(math.fsum(b["seconds"] for b in batches))
    found = ratio(seconds, sum(b["rows"] for b in batches))
    return None if found is None else 1e3 * found


def fixed_length(cell: SpeedFields) -> bool:
    """Whether a timed cell ran to a fixed length: times to a natural end are another quantity and never enter a speed-up."""
    return bool((cell.get("conditions") or {}).get("end_of_sequence", "ignored") == "ignored")


def times(cell: SpeedFields) -> Times:
    """Decode seconds and tokens of each timed run by (process, repeat, prompt set); summed where timed twice."""
    found: Times = {}
    for run in cell.get("runs") or []:
        seconds, tokens = run.get("step_s") or [], run.get("step_tokens") or []
        total, count = real(math.fsum(seconds)), real(sum(tokens))
        if total and count and total > 0:
            key = (run["process"], run["repeat"], run["prompt_set"])
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + total, before[1] + count)
    return found


def statistics_of(examples: Mapping[str, Example], ids: Iterable[str], metric: str) -> list[list[float]] | None:
    """Statistics [n][K] of the examples with these ids; None where there are none, or one lacks them."""
    rows: list[Any] = [(examples[key].get("stats") or {}).get(metric) for key in ids]
    if set(map(type, rows)) != {list} or not rows[0] or len(set(map(len, rows))) > 1:
        return None
    return rows
