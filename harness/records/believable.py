"""Can a speed-up be believed? What its work allows, what explains more, and arms that do the same work as a control. Torch-free.

The predicted speed-up is what the parts of the full model's own step allow (`ideal_speedup`). One that is realised beyond
it, interval and all, says that the baseline is slow rather than the method fast: unless what was recorded explains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.records import measures
from harness.records.folder import Json, Run
from harness.stats.intervals import Interval

UNUSABLE = "unusable"
MARGIN = 1.1
"""Realised over predicted, beyond the interval, above which a speed-up outruns its prediction."""
SAME_WORK = 0.03
"""How far the full model on other weights of the same shape may be from the baseline's time."""


@dataclass(frozen=True)
class Prediction:
    """A speed-up beside what its work allows.

    Attributes:
        efficiency: realised over predicted, with the interval of the speed-up.
        outruns: the whole interval lies above MARGIN.
        explained: what in the record explains that; empty where nothing does.
    """

    efficiency: Interval
    outruns: bool
    explained: str

    @property
    def unusable(self) -> str:
        """Why the cell is unusable; empty where it is not."""
        if not self.outruns or self.explained:
            return ""
        return (
            f"faster than its work allows ({self.efficiency.value:.2f} times the prediction); the baseline is suspect"
        )


def predicted(full: Json, cell: Json, speedup: Interval) -> Prediction | None:
    """The speed-up of a timed cell over full's beside its prediction; None where there is no prediction or no interval."""
    ideal = measures.ratio(cell.get("ideal_full_step_s"), cell.get("ideal_step_s"))
    if ideal is None or not speedup.known:
        return None
    found = Interval(speedup.value / ideal, speedup.low / ideal, speedup.high / ideal, speedup.n)
    outruns = found.low > MARGIN
    return Prediction(found, outruns, _explained(full, cell) if outruns else "")


def step_bytes(cell: Json) -> float | None:
    """Bytes of weights, keys and values that a decode step reads, all rows of the batch together."""
    weights, kept = (measures.real(cell.get(key)) for key in ("weight_bytes_per_token", "kv_bytes_per_token"))
    rows = measures.real(cell.get("batch_size"))
    return None if weights is None or kept is None or rows is None else rows * (weights + kept)


def weight_rate(cell: Json) -> float | None:
    """10^9 bytes of weights per second that the decode steps read."""
    times = measures.times(cell).values()
    tokens, seconds = sum(count for _, count in times), sum(spent for spent, _ in times)
    weights = measures.real(cell.get("weight_bytes_per_token"))
    return None if weights is None or not seconds else weights * tokens / seconds / 1e9


def _explained(full: Json, cell: Json) -> str:
    """Why fewer blocks may cost less than their share: what is left fits the cache, and is read no faster than the cache can."""
    readings = [*(full.get("reading") or []), *(cell.get("reading") or [])]
    sizes, rates = ([found for one in readings if (found := measures.real(one.get(key)))] for key in _READ)
    mine, theirs = step_bytes(cell), step_bytes(full)
    if not sizes or not rates or mine is None or theirs is None or not mine <= max(sizes) < theirs:
        return ""
    times = measures.times(cell).values()
    tokens, seconds = sum(count for _, count in times), sum(spent for spent, _ in times)
    if not seconds or mine * tokens / cell["batch_size"] / seconds > 1e9 * max(rates):
        return ""
    megabytes = (f"{value / 1e6:.0f}" for value in (mine, max(sizes), theirs))
    return "what a step reads ({} MB) fits the last-level cache ({} MB), what the full model's reads ({} MB) does not".format(
        *megabytes
    )


_READ = ("last_level_cache_bytes", "cache_gb_per_s")


def same_work(run: Run, batch: int) -> list[tuple[str, Interval]]:
    """The full model on other weights, its time against the baseline's at a batch size: label and speed-up of each."""
    cells = [c for c in run.cells if c["kind"] == "speed" and c["status"] == "ok" and c.get("batch_size") == batch]
    alike = [c for c in cells if c["arm"].get("method") == "full" and measures.fixed_length(c)]
    first = next((str(arm["label"]) for arm in run.run.get("arms") or [] if arm.get("method") == "full"), None)
    base = next((c for c in alike if c["arm"]["label"] == first), alike[0] if alike else None)
    found = []
    for cell in alike:
        if base is None or cell is base or cell.get("conditions_hash") != base.get("conditions_hash"):
            continue
        speedup = measures.speedup(base, cell)
        if speedup is not None and speedup.known:
            found.append((str(cell["arm"]["label"]), speedup))
    return found


def processor(run: Run) -> dict[str, Any]:
    """What tells processors apart, as far as the run says: model, vectors, last-level cache, instruction set of the kernels."""
    cpu = (run.run.get("environment") or {}).get("cpu") or {}
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
