"""Every quantity of an arm at a batch size, in one table: where it is stored, its column, how tables show it. Torch-free.

A new one is a row here and a value that its probe (`harness.measure.probes`) returns under `field`; nothing else knows its name.
The rows stand in the order of the columns. What compares an arm with the full model, and what the timed steps say, is worked out
by `harness.records.summary`, which fills in the rows that name no field and no `read`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.records import believable, measures
from harness.records.clock import Clock
from harness.records.measures import ratio, real

Measured = dict[str, float | None]
"""What a probe found, by the field it is stored under; None: not measurable."""
BYTES, OPERATIONS = "bytes", "FLOP"
"""Units that tables scale to the size of what they show."""

_STEP = "Speed-up, × full"
_RAN = "Executed per decoded token"
_WORK, _TRAFFIC = "Operations per decoded token", "Weights and cache"
_MEMORY, _ENERGY = "Memory, in a process of its own", "Energy"


@dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        name: its column in summary.csv, with its unit; empty: it has none.
        kind: of the cells that hold it.
        field: under which such a cell holds it.
        per: how many of the field's unit make one of the column's.
        read: works it out from a cell, in the column's unit, where it is no single field.
        ends: `_low` and `_high` follow it, the ends of its interval.
        late: it stands after the scores of the tasks.
        words: it is no number.
        limit: what a timed cell may have at most before it is unusable: a number, or a field of `harness.records.limits.Limits`.
        above: why it is unusable above it, in words, `{}` being the value.
        table: the report's table that shows it, `times` or `operations`; columns of one group stand together.
        title: its heading; empty: reports do not show it as a matter of course.
        unit: shown under the title; that of the field for BYTES and OPERATIONS, else that of the column.
        group: heading above those of several columns.
        hint: what it means, in a few words.
        decimals: None: by the size of the values.
    """

    name: str
    kind: Literal["speed", "memory", "energy"]
    field: str = ""
    per: float = 1.0
    read: Callable[[Any], Any] | None = None
    ends: bool = False
    late: bool = True
    words: bool = False
    limit: str | float | None = None
    above: str = ""
    table: Literal["", "times", "operations"] = ""
    title: str = ""
    unit: str = ""
    group: str = ""
    hint: str = ""
    decimals: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns in summary.csv."""
        ends = (f"{self.name}_low", f"{self.name}_high") if self.ends else ()
        return (self.name, *ends) if self.name else ()

    def value(self, cell: Mapping[str, Any]) -> float | None:
        """What a cell says, in the column's unit; None where it does not tell."""
        return real(self.read(cell)) if self.read else ratio(self.stored(cell), self.per)

    def stored(self, cell: Mapping[str, Any]) -> float | None:
        """The field of a cell as it is stored."""
        return real(cell.get(self.field))


def _speed(name: str, **more: Any) -> Quantity:
    return Quantity(name, "speed", **more)


def _operations(name: str, kind: Literal["speed", "memory", "energy"], field: str, title: str, **more: Any) -> Quantity:
    return Quantity(name, kind, field, title=title, table="operations", **more)


TABLE: tuple[Quantity, ...] = (
    _speed("ttft_ms", late=False, table="times", title="TTFT", unit="ms", decimals=2,
           hint="time to first token, median of the repeats"),
    _speed("tpot_ms", late=False, table="times", title="TPOT", unit="ms", decimals=3,
           hint="time per output token after the first"),
    _speed("tpot_p99_ms", late=False),
    _speed("tokens_per_s", late=False, table="times", title="Throughput", unit="tokens/s", decimals=0),
    _speed("speedup", ends=True, late=False, title="realised", group=_STEP, hint="measured, paired with full"),
    _speed("predicted_speedup", late=False, read=measures.predicted_speedup, title="predicted", group=_STEP, decimals=2,
           hint="if skipping were free: the full model's own step over the same with as many of its blocks"),
    _speed("efficiency", late=False, title="Efficiency", unit="realised / predicted", decimals=2),
    _speed("layers_per_token", late=False, field="layers_per_token", title="blocks", group=_RAN, decimals=1,
           hint="drafts, what verifies them and what was computed in vain included"),
    _speed("layer_ratio", late=False, read=lambda cell: ratio(cell.get("depth"), cell.get("layers_per_token")),
           title="layer ratio", group=_STEP, decimals=2, hint="depth over blocks executed per token"),
    _operations("gflops_per_token", "speed", "flops_per_token", "all", per=1e9, late=False, unit=OPERATIONS, group=_WORK,
                decimals=2, hint="exit tests and K/V fill included"),
    _operations("", "speed", "exit_test_flops_per_token", "exit tests", unit=OPERATIONS, group=_WORK, decimals=2),
    _operations("", "speed", "fill_flops_per_token", "K/V fill", unit=OPERATIONS, group=_WORK, decimals=2),
    _operations("", "speed", "head_flops_per_token", "head", unit=OPERATIONS, group=_WORK, decimals=2),
    _operations("flops_ratio", "speed", "", "full/arm", late=False, unit="×", group=_WORK, decimals=2),
    _speed("", field="prefill_flops"),
    _operations("weight_mb_per_token", "speed", "weight_bytes_per_token", "weights read per token", per=1e6, late=False,
                unit=BYTES, group=_TRAFFIC),
    Quantity("peak_memory_mb", "memory", late=False, read=lambda cell: measures.peak(cell)[0]),
    _operations("", "memory", "peak_rss_bytes", "peak resident", unit=BYTES, group=_MEMORY),
    _operations("", "memory", "baseline_rss_bytes", "before loading", unit=BYTES, group=_MEMORY),
    _operations("", "memory", "weights_bytes", "weights", unit=BYTES, group=_MEMORY),
    _operations("", "memory", "cuda_peak_allocated_bytes", "CUDA peak allocated", unit=BYTES, group=_MEMORY),
    _operations("kv_cache_mb", "speed", "kv_cache_bytes", "K/V cache held", per=1e6, late=False, unit=BYTES, group=_TRAFFIC),
    _operations("energy_j_per_token", "energy", "energy_j_per_token", "per token", late=False, unit="J", group=_ENERGY),
    _speed("attention_per_token", field="attention_per_token", title="attention", unit="sublayers", group=_RAN, decimals=1,
           hint="a block is an attention and a feed-forward sublayer; a method may skip one alone"),
    _speed("feed_per_token", field="feed_per_token", title="feed-forward", unit="sublayers", group=_RAN, decimals=1,
           hint="a block is an attention and a feed-forward sublayer; a method may skip one alone"),
    _speed("computed_layers_per_token", field="computed_layers_per_token"),
    _speed("batch_tax", read=measures.batch_tax),
    _speed("sublayers_per_token", read=measures.sublayers_per_token, title="one after the other", unit="sublayers", group=_RAN,
           decimals=1, hint="columns that are verified together count once"),
    _speed("usable", words=True),
    _speed("reason", words=True),
    _speed("dispersion", read=lambda cell: Clock.of(cell).dispersion, unit="interquartile range over median", limit="dispersion",
           above="the middle half of its repeats spans {:.0%} of their median"),
    _speed("exact", words=True),
    _speed("paired_repeats"),
    _speed("speedup_geomean", ends=True),
    Quantity("peak_memory_kind", "memory", words=True),
    _operations("reserved_memory_mb", "memory", "cuda_reserved_bytes", "CUDA reserved", per=1e6, unit=BYTES, group=_MEMORY),
    _operations("nvml_process_mb", "memory", "nvml_process_bytes", "NVML process", per=1e6, unit=BYTES, group=_MEMORY),
    _operations("nvml_device_mb", "memory", "nvml_device_bytes", "NVML device", per=1e6, unit=BYTES, group=_MEMORY),
    _operations("kv_written_mb", "speed", "kv_written_bytes", "K/V written", per=1e6, unit=BYTES, group=_TRAFFIC),
    _operations("energy_above_idle_j_per_token", "energy", "energy_above_idle_j_per_token", "above idle",
                unit="J per token", group=_ENERGY),
    _operations("cpu_energy_j_per_token", "energy", "cpu_energy_j_per_token", "of the processor",
                unit="J per token", group=_ENERGY),
    _operations("idle_w", "energy", "idle_w", "idle", unit="W", group=_ENERGY),
    Quantity("", "energy", "mean_power_w"),
    Quantity("", "energy", "sampled_power_w"),
    _speed("weight_gb_per_s", read=believable.weight_rate),
    _speed("read_gb_per_s", read=measures.read_rate),
    _speed("byte_limit", title="byte limit", group=_STEP, decimals=2,
           hint="weight bytes a step of the full model reads over those a step of the method reads"),
    _speed("explanation", words=True, title="Above its byte limit or the predicted"),
    *(_speed(f"{part}_ms") for part in measures.PARTS),
)  # fmt: skip


def named(name: str) -> Quantity:
    """The quantity of a column."""
    return next(each for each in TABLE if each.name == name)


def columns(*, late: bool) -> list[str]:
    """Columns of summary.csv before the scores of the tasks, or after them."""
    return [column for each in TABLE if each.late == late for column in each.columns]


def values(kind: str, cell: Mapping[str, Any] | None) -> Measured:
    """The columns that a cell of a kind fills in; all None without a cell."""
    own = [each for each in TABLE if each.kind == kind and each.name and (each.read or each.field)]
    return {each.name: None if cell is None else each.value(cell) for each in own}


def limited() -> Iterator[Quantity]:
    """Quantities that make a timed cell unusable where they are above their limit."""
    return (each for each in TABLE if each.limit is not None)


def fields(kind: str) -> set[str]:
    """The fields under which cells of a kind hold quantities: a number each, or None."""
    return {each.field for each in TABLE if each.kind == kind and each.field}
