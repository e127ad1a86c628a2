"""Can a speed-up be believed? What its work allows, what explains more, and arms that do the same work as a control. Torch-free.

A step that reads half of the bytes and computes half of the operations can be twice as fast. A speed-up beyond that, interval
and all, says that the baseline is slow rather than the method fast: unless what was recorded explains it.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.records import measures
from harness.records.arms import is_whole
from harness.records.beyond import CACHE, HOST, OWN_STEP, UNEXPLAINED
from harness.records.clock import Clock, speedup
from harness.stats.intervals import Interval

if TYPE_CHECKING:
    from harness.records.cells import SpeedCell
    from harness.records.run import Run

MARGIN = 1.1
"""Speed-up over what the work allows, beyond the interval, above which it needs an explanation."""
EVEN = 1.5
"""How much longer than the median block the slowest may take: blocks of one shape do the same work."""
_TIMES = 3
SAME_WORK = 0.03
"""How far the full model on other weights of the same shape may be from the baseline's time."""


@dataclass(frozen=True)
class Prediction:
    """A speed-up beside what its work allows.

    Attributes:
        work: how many times less a step of the method reads or computes than the full model's, whichever is more: weights, keys
            and values, the head included.
        beyond: the speed-up over that, with its interval.
        explained: what in the record explains a speed-up beyond it; empty where nothing does, or nothing needs to.
    """

    work: float
    beyond: Interval
    explained: str

    @property
    def outruns(self) -> bool:
        """Whether the whole interval lies above MARGIN."""
        return self.beyond.low > MARGIN

    @property
    def unusable(self) -> str:
        """Why the cell is unusable; empty where it is not."""
        if not self.outruns or self.explained:
            return ""
        return f"faster than its work allows ({self.beyond.value:.2f} times); the baseline is suspect"


def predicted(full: SpeedCell, cell: SpeedCell, speedup: Interval) -> Prediction | None:
    """The speed-up of a timed cell over full's beside what its work allows; None where that is unknown."""
    work = work_limit(full, cell)
    if work is None or not speedup.known:
        return None
    beyond = Interval(speedup.value / work, speedup.low / work, speedup.high / work, speedup.n)
    return Prediction(work, beyond, _explained(full, cell, speedup) if beyond.low > MARGIN else "")


def work_limit(full: SpeedCell, cell: SpeedCell) -> float | None:
    """Bytes or operations of a full step over those of the method's, whichever is more."""
    bytes_ = measures.ratio(step_bytes(full), step_bytes(cell))
    operations = measures.ratio(full.get("flops_per_token"), cell.get("flops_per_token"))
    known = [found for found in (bytes_, operations) if found is not None]
    return max(known) if bytes_ is not None and known else None


def byte_limit(full: SpeedCell, cell: SpeedCell) -> float | None:
    """Weight bytes that a step of the full model reads over those that a step of the method reads."""
    return measures.ratio(full.get("weight_bytes_per_token"), cell.get("weight_bytes_per_token"))


def slowest_block(full: SpeedCell) -> tuple[int, float] | None:
    """The block that took longest, and its seconds over the median block's; None where they were not timed often enough."""
    each_time = (one.get("block_step_s") or one.get("blocks_s") for one in full.get("breakdown") or [])
    timed = [seconds for seconds in each_time if seconds]
    if len(timed) < _TIMES or len(timed[0]) < _TIMES:
        return None
    each = [min(seconds) for seconds in zip(*timed, strict=True)]  # a disturbance of one block is no slow block
    middle = statistics.median(each)
    worst = max(range(len(each)), key=each.__getitem__)
    return (worst, each[worst] / middle) if middle else None


def step_bytes(cell: SpeedCell) -> float | None:
    """Bytes of weights, keys and values that a decode step reads, all rows of the batch together."""
    weights, kept = (measures.real(cell.get(key)) for key in ("weight_bytes_per_token", "kv_bytes_per_token"))
    rows = measures.real(cell.get("batch_size"))
    return None if weights is None or kept is None or rows is None else rows * (weights + kept)


def weight_rate(cell: SpeedCell) -> float | None:
    """10^9 bytes of weights per second that the decode steps read."""
    runs = Clock.of(cell).counted
    tokens, seconds = sum(sum(run["step_tokens"]) for run in runs), math.fsum(s for run in runs for s in run["step_s"])
    weights = measures.real(cell.get("weight_bytes_per_token"))
    return None if weights is None or not seconds else weights * tokens / seconds / 1e9


def _explained(full: SpeedCell, cell: SpeedCell, speedup: Interval) -> str:
    """Why fewer blocks may cost less than their share: the full model's own step shows it, and none of its blocks is slow."""
    predicted_ = measures.predicted_speedup(cell)
    slowest = slowest_block(full)
    if not any(one.get("step_s") for one in full.get("fewer_blocks") or []) or predicted_ is None or slowest is None:
        return ""
    if slowest[1] > EVEN or speedup.low > MARGIN * predicted_:
        return ""
    said = f"{OWN_STEP} {predicted_:.2f} times faster with as few of its blocks"
    cache = _in_cache(full, cell)
    return f"{said}: {cache}" if cache else said


def explanation(full: SpeedCell, cell: SpeedCell, speedup: Interval) -> str:
    """Why a speed-up lies above its byte limit or above the predicted one, interval and all; empty where it does neither."""
    if is_whole(cell["arm"]):  # other weights, the same work: the control of `same_work`
        return ""
    said = []
    limit, expected = byte_limit(full, cell), measures.predicted_speedup(cell)
    cache = _in_cache(full, cell)
    if limit is not None and speedup.low > limit:
        said.append(f"above its byte limit of {limit:.2f}: {_explained(full, cell, speedup) or cache or HOST}")
    if expected is not None and speedup.low > expected:
        said.append(f"above the predicted {expected:.2f}: {cache or UNEXPLAINED}")
    return "; ".join(said)


def _in_cache(full: SpeedCell, cell: SpeedCell) -> str:
    """Whether a step of the method fits the last-level cache and one of the full model does not, in words."""
    sizes = [size for one in cell.get("reading") or [] if (size := measures.real(one.get("last_level_cache_bytes")))]
    mine, theirs = step_bytes(cell), step_bytes(full)
    if not sizes or mine is None or theirs is None or not mine <= sizes[0] < theirs:
        return ""
    room = f"{sizes[0] / 1e6:.0f} MB"
    return f"what a step reads ({mine / 1e6:.0f} MB) {CACHE} of {room}, the full model's {theirs / 1e6:.0f} MB do not"


def same_work(run: Run, batch: int) -> list[tuple[str, Interval]]:
    """The full model on other weights, its time against the baseline's at a batch size: label and speed-up of each."""
    cells = [c for c in run.speed if c.get("batch_size") == batch]
    alike = [c for c in cells if is_whole(c["arm"]) and measures.fixed_length(c)]
    first = run.full["label"] if run.full else None
    base = next((c for c in alike if c["arm"]["label"] == first), alike[0] if alike else None)
    found = []
    for cell in alike:
        if base is None or cell is base or cell.get("conditions_hash") != base.get("conditions_hash"):
            continue
        against = speedup(base, cell)
        if against is not None and against.known:
            found.append((str(cell["arm"]["label"]), against))
    return found


def processor(run: Run) -> dict[str, Any]:
    """What tells processors apart, as far as the run says: model, vectors, last-level cache, instruction set of the kernels."""
    cpu = (run.record.get("environment") or {}).get("cpu") or {}
    kernels = next((c for cell in run.cells if (c := (cell.get("conditions") or {}).get("compiled_kernels"))), None)
    caches = (cpu.get("cache_bytes") or {}).values()
    on = str(kernels).removeprefix("on: ").split(",")[0] if kernels and str(kernels).startswith("on: ") else None
    found = {
        "processor": cpu.get("model"),
        "vectors": cpu.get("vectors"),
        "last-level cache": max(caches) if caches else None,
        "kernels": on if on in ("avx512", "avx2", "sse2", "neon") else None,
    }
    return {key: value for key, value in found.items() if value is not None}
