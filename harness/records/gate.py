"""What a gate is: a condition that must hold before a run's numbers are believed, with its value and its limit. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.limits import Limits

if TYPE_CHECKING:
    from harness.records.run import Run

PASSED, FAILED, NOT_APPLICABLE, NOT_MEASURED = "passed", "failed", "not applicable", "not measured"
LISTED = 10

TIE = {"float32": 2e-5, "bfloat16": 2.0**-6, "float16": 2.0**-9}
"""Two best logits that lie closer than this, relative to the largest of the row, are a tie: a few units of the last place of
the dtype's sums (2e-5 is what float32 keeps after tens of blocks), which another batch size or column count may turn over."""


@dataclass(frozen=True)
class Gate:
    """One gate of a run.

    Attributes:
        name: what must hold.
        status: passed, failed, not applicable (nothing it could judge), or not measured.
        value: the worst value found; None where there is none.
        limit: the most it may be.
        unit: what value and limit count.
        counts: whether failing it gives exit status 1; False: it is shown, and that is all.
        detail: one sentence: what was compared, and the first things that fell short.
        cells: ids of the cells that fell short, at most LISTED of them.
        fault: where it failed, what is wrong: the opposite of its name, in words.
        advice: where it failed, what a reader can do about it.
    """

    name: str
    status: str
    value: float | None
    limit: float | None
    unit: str
    counts: bool
    detail: str
    cells: tuple[str, ...] = ()
    fault: str = ""
    advice: str = ""

    @property
    def stops(self) -> bool:
        """Whether the run's exit status is 1 because of it."""
        return self.counts and self.status == FAILED


@dataclass(frozen=True)
class Finding:
    """A thing that fell short: where, and what, in a few words."""

    cell: str
    what: str


class Facts:
    """A run's cells, sorted for the gates."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self.run, self.suite, self.limits = run, run.suite, limits
        self.speed = [c for c in run.cells if c["kind"] == "speed"]
        self.timed, self.scored = run.speed, run.quality
        self.measured = [c for c in run.cells if c["kind"] != "quality" and c["status"] == "ok"]
        self.cuda = str(run.suite.get("device") or "cpu").startswith("cuda")
        dtype = str(run.suite.get("dtype") or "float32")
        # A CPU computes with bfloat16 weights in float32 (harness/models/precision.py).
        self.dtype = dtype if self.cuda or dtype != "bfloat16" else "float32"

    def tie(self, margin: float | None, scale: float | None) -> bool:
        """Whether two logits lie too close for the sums' type to tell which is larger."""
        return margin is not None and scale is not None and margin <= TIE.get(self.dtype, 0.0) * max(scale, 1.0)


def counted(name: str, unit: str, checked: int, findings: Sequence[Finding], what: str, *, counts: bool = True) -> Gate:
    """A gate that allows nothing to fall short."""
    if not checked:
        return Gate(name, NOT_APPLICABLE, None, 0, unit, counts, f"there is nothing to compare: no {what}")
    detail = f"{checked} {what} compared"
    if findings:
        more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
        detail += ": " + "; ".join(f"{f.cell}: {f.what}" for f in findings[:3]) + more
    return Gate(
        name, FAILED if findings else PASSED, len(findings), 0, unit, counts, detail, cells_of(f.cell for f in findings)
    )


def cells_of(names: Iterable[str]) -> tuple[str, ...]:
    """The first LISTED of some cell ids, each once."""
    return tuple(dict.fromkeys(names))[:LISTED]
