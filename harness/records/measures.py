"""Numbers of single cells, and of a cell beside the full model's: what summary.csv is made of. Torch-free.

Values are None where the cell does not tell, never 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the table of quantities is made with these, and cells are checked by it
    from harness.records.cells import QualityCell, SpeedCell
    from harness.records.fields import Example, SpeedFields

Row = dict[str, Any]

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


def predicted_speedup(cell: SpeedFields) -> float | None:
    """The decode speed-up if skipping were free: the full model's own step over the same with as many blocks as the method ran."""
    full, step = cell.get("predicted_full_step_s"), cell.get("predicted_step_s")
    return ratio(
        cell.get("ideal_full_step_s") if full is None else full, cell.get("ideal_step_s") if step is None else step
    )


def sublayers_per_token(cell: SpeedFields) -> float | None:
    """Attention and feed-forward sublayers a row ran one after the other per token; a block is two."""
    attention, feed = real(cell.get("serial_attention_per_token")), real(cell.get("serial_feed_per_token"))
    return None if attention is None or feed is None else attention + feed


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


def statistics_of(examples: Mapping[str, Example], ids: Iterable[str], metric: str) -> list[list[float]] | None:
    """Statistics [n][K] of the examples with these ids; None where there are none, or one lacks them."""
    rows: list[Any] = [(examples[key].get("stats") or {}).get(metric) for key in ids]
    if set(map(type, rows)) != {list} or not rows[0] or len(set(map(len, rows))) > 1:
        return None
    return rows
