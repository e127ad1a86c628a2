"""What a paper claims and what this run found, in words: layers against speed, and the score's distance from the full model.

Differences and ratios of published numbers are worked out here, while the page is made; none is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.facts.facts import Facts
from reports.facts.metrics import metric_title
from reports.text import fixed, label, listed, real, signed, span

_LAYERS = "layers_per_token"


def sentences(facts: Facts, pairs: Sequence[Any]) -> tuple[str, ...]:
    """Return the finding about one paper: its published rows and the arms they stand beside."""
    return (*_speed(facts, pairs), *_quality(facts, pairs))


def _speed(facts: Facts, pairs: Sequence[Any]) -> Iterator[str]:
    """Target against executed layers in the paper; executed layers against realised speed-up here."""
    for pair in pairs:
        full = _full(pair, pairs)
        if pair.row.metric != _LAYERS or full is None or not (pair.row.target or 0) > 1:
            continue
        ratio = full.row.value / pair.row.value
        there = (
            f"{label(pair.row.setting)} on {label(pair.row.model)}, a target of {pair.row.target:g}x, executes "
            f"{pair.row.value:g} layers per token there where the full model executes {full.row.value:g}: {fixed(ratio)}x fewer."
        )
        rows = _rows(facts, pair.label)
        ours = next((value for row in rows if (value := real(row.get(pair.column))) is not None), None)
        base = next((v for row in _rows(facts, full.label) if (v := real(row.get(pair.column))) is not None), None)
        here = ""
        if ours and base:
            here = (
                f" Here {label(pair.label)} executes {fixed(ours, 1)} of {fixed(base, 1)} ({fixed(base / ours)}x fewer)"
            )
            realised = [
                f"at batch {row.get('batch_size')} {fixed(value)} {_ends(row, 'speedup')}"
                for row in rows
                if (value := real(row.get("speedup"))) is not None
            ]
            here += f" and decodes {listed(realised)} times as fast." if realised else "; its time was not measured."
        yield there + here


def _quality(facts: Facts, pairs: Sequence[Any]) -> Iterator[str]:
    """Distance from the paper's own full model beside ours, whether or not the numbers themselves can be compared."""
    for metric in dict.fromkeys(pair.row.metric for pair in pairs if "/" in pair.column and pair.row.metric != _LAYERS):
        parts = []
        for pair in (p for p in pairs if p.row.metric == metric):
            full = _full(pair, pairs)
            row = next(iter(_rows(facts, pair.label)), {})
            ours, low, high = (real(row.get(f"{pair.column}_diff{end}")) for end in ("", "_low", "_high"))
            if full is None or full.row is pair.row or ours is None:
                continue
            theirs = pair.row.value - full.row.value
            ends = ""
            if low is not None and high is not None:
                within = "inside" if low <= theirs <= high else "outside"
                ends = f" {_ends(row, f'{pair.column}_diff', signs=True)} ({within})"
            parts.append(f"{label(pair.row.setting)} {signed(theirs)} there, here {signed(ours)}{ends}")
        if parts:
            yield (
                f"{metric_title(metric)} against the own full model, in points (inside: the paper's difference lies in our "
                f"interval): {'; '.join(dict.fromkeys(parts))}."
            )


def _full(pair: Any, pairs: Sequence[Any]) -> Any | None:
    """The paper's full model for a row: same metric, model and task, in the row's own table or else in any."""
    found = [
        other
        for other in pairs
        if other.row.target == 1
        and (other.row.metric, other.row.model, other.row.task) == (pair.row.metric, pair.row.model, pair.row.task)
    ]
    return next((other for other in found if other.row.table == pair.row.table), found[0] if found else None)


def _rows(facts: Facts, arm: str) -> list[Mapping[str, Any]]:
    return [row for row in facts.data.summary if str(row.get("label")) == arm]


def _ends(row: Mapping[str, Any], column: str, *, signs: bool = False) -> str:
    low, high = real(row.get(f"{column}_low")), real(row.get(f"{column}_high"))
    if low is None or high is None:
        return ""
    return f"[{span(low, high, 1 if signs else 2, plus=signs)}]"
