"""Published numbers beside ours: what a suite names, in a style of its own, never in an interval or a Pareto front."""

from __future__ import annotations

from harness.records import beside, published
from harness.records.beside import Pair
from harness.records.published import Row
from harness.records.run_record import PaperHead
from reports.facts.facts import Facts
from reports.facts.metrics import metric_title
from reports.text import MISSING, clean, counted, decimals_for, fixed, label, listed, real, signed, span
from reports.view import claims
from reports.view.cells import EMPTY, word_cell
from reports.view.parts import Block, Cell, Column, Fold, Prose, Table, table
from reports.view.settings import machine


def blocks(facts: Facts) -> tuple[Block, ...]:
    """One table per paper that the run carries, each after a sentence; nothing where it carries none."""
    carried = facts.data.record.get("published") or []
    if not carried:
        return ()
    pairs = beside.pairs(facts.data.record)
    found: list[Block] = []
    for part in carried:
        paper = part["paper"]
        key = paper["bibkey"]
        own = [p for p in pairs if p.bibkey == key]
        alone = beside.alone(facts.data.record, key)
        found.append(Prose(_about(paper, own, [p for p in own if p.comparable == "yes"], len(alone))))
        if own and (said := claims.sentences(facts, own)):
            found.append(Prose(said))
        tables = [_table(facts, key, paper, own)] if own else []
        tables += [_alone(key, alone)] if alone else []
        if tables:
            rows = [*(p.row for p in own), *(row for _, row in alone)]
            found.append(_apart(facts, key, rows))
            found.append(Fold(f"Every number of {label(key)} beside ours", tuple(tables)))
    return tuple(found)


def _about(paper: PaperHead, pairs: list[Pair], comparable: list[Pair], alone: int) -> tuple[str, ...]:
    authors = [str(a) for a in paper.get("authors") or ["authors not named"]]
    who = f"{authors[0]} et al." if len(authors) > 2 else listed(authors)
    head = f"{who} ({paper.get('year')}), “{paper.get('title')}”, {paper.get('venue')}, {paper.get('url')}."
    if not pairs and not alone:
        return (clean(head), "No number of this paper stands beside an arm of this run.")
    count = counted(len(pairs), "published number") if pairs else "No published number"
    said = f"{count} beside ours; {len(comparable) or 'none'} of them comparable as measured here."
    if alone:
        said += f" {counted(alone, 'more')} printed for these arms, of what this run does not measure."
    notes = " ".join(clean(note) for note in paper.get("notes") or ())
    return tuple(filter(None, (clean(head), said, notes)))


def _table(facts: Facts, key: str, paper: PaperHead, pairs: list[Pair]) -> Table:
    """Paper | ours | difference | comparable?, one row per published number and batch size of ours."""
    rows = []
    for pair in pairs:
        for batch, value, low, high in _ours(facts, pair):
            rows.append((pair, batch, value, low, high))
    paper_values = [p.row.value for p, *_ in rows]
    places = min(2, max(1, decimals_for(paper_values)))
    gaps = [None if value is None else value - p.row.value for p, _, value, _, _ in rows]
    reasons = list(dict.fromkeys(str(p.reason) for p in pairs))  # said once, under the table
    columns = [
        (Column("Arm here", numeric=False), [word_cell(label(p.label)) for p, *_ in rows]),
        (Column("In the paper", "model, task, setting", numeric=False), [word_cell(_where(p.row)) for p, *_ in rows]),
        (
            Column("Metric", numeric=False),
            [word_cell(metric_title(p.row.metric), detail=_unit(p.row)) for p, *_ in rows],
        ),
        (Column("Batch here", "rows"), [EMPTY if b is None else Cell(str(b), sort=float(b)) for _, b, *_ in rows]),
        (Column("paper", group="Value"), [Cell(fixed(v, places), sort=float(v)) for v in paper_values]),
        (Column("ours", group="Value"), [_mine(v, low, high, places) for _, _, v, low, high in rows]),
        (Column("Difference", "ours − paper"), [EMPTY if g is None else Cell(signed(g, places), sort=g) for g in gaps]),
        (
            Column("Comparable?", numeric=False),
            [word_cell(_verdict(p, reasons)) for p, *_ in rows],
        ),
    ]
    sources = sorted({p.row.source for p in pairs})
    note = (
        f"Published values as printed ({listed(sources)} source), with no interval of ours around them. A difference is given "
        "whether or not the two are comparable; the last column says which, with its reason. "
        + " ".join(f"[{i}] {clean(reason)}." for i, reason in enumerate(reasons, 1) if reason)
    )
    return table(f"paper-{label(key, 40)}", f"{label(key)} and this run", columns, note, wrap=True)


def _alone(key: str, found: list[tuple[str, Row]]) -> Table:
    """What a paper printed for arms of this run that nothing here measures."""
    rows = [row for _, row in found]
    places = min(2, max(1, decimals_for([row.value for row in rows])))
    columns = [
        (Column("Arm here", numeric=False), [word_cell(label(arm)) for arm, _ in found]),
        (Column("In the paper", "model, task, setting", numeric=False), [word_cell(_where(row)) for row in rows]),
        (Column("Metric", numeric=False), [word_cell(metric_title(row.metric), detail=_unit(row)) for row in rows]),
        (Column("paper", group="Value"), [Cell(fixed(row.value, places), sort=float(row.value)) for row in rows]),
    ]
    note = "Published values as printed; this run measures nothing that could stand beside them."
    return table(f"alone-{label(key, 40)}", f"{label(key)}: printed, not measured here", columns, note, wrap=True)


def _apart(facts: Facts, key: str, rows: list[Row]) -> Table:
    """What differs between a paper and this run: model, data, batch, baseline, hardware and decoding."""
    suite = facts.data.suite
    scored = [label(task) for task in facts.tasks]
    batches = [str(b) for b in facts.batch_sizes]
    divides = [row.divides_by for row in rows if row.divides_by]
    models = dict.fromkeys(label(arm.checkpoint) for arm in facts.arms)
    lines = [
        ("Model", [row.model for row in rows], list(models)),
        ("Data", [row.task for row in rows], scored or ["prompts alone"]),
        ("Batch size", [str(row.batch_size or published.NOT_STATED) for row in rows], batches),
        ("A ratio divides", divides, [_OURS] if facts.speed else []),
        (
            "Hardware, decoding",
            [row.conditions for row in rows],
            [f"{machine(facts)}; {suite.get('dtype') or 'dtype not recorded'}, greedy"],
        ),
    ]
    shown = [line for line in lines if line[1]]
    columns = [
        (Column("What", numeric=False), [word_cell(what) for what, _, _ in shown]),
        (Column("There", numeric=False), [word_cell(_each(there)) for _, there, _ in shown]),
        (Column("Here", numeric=False), [word_cell(_each(here)) for _, _, here in shown]),
    ]
    return table(f"apart-{label(key, 40)}", f"What differs between {label(key)} and this run", columns, wrap=True)


_OURS = "decode time per token, full model over method, in one engine, paired"


def _each(items: list[str]) -> str:
    return listed([clean(item) for item in dict.fromkeys(items)], 8) or MISSING


def _verdict(pair: Pair, reasons: list[str]) -> str:
    return f"{pair.comparable} [{reasons.index(str(pair.reason)) + 1}]" if pair.reason else pair.comparable


def _where(row: Row) -> str:
    return ", ".join(filter(None, (label(row.model), label(row.task), label(row.setting))))


def _unit(row: Row) -> str:
    return label(f"{row.unit}: {row.divides_by}" if row.divides_by else row.unit, 120)


def _ours(facts: Facts, pair: Pair) -> list[tuple[int | None, float | None, float | None, float | None]]:
    """Our value with its interval, for each batch size it belongs beside; one without a batch size for a task's metric."""
    found = []
    for row in facts.data.summary:
        batch = row.get("batch_size")
        if str(row.get("label")) != pair.label or (pair.row.batch_size is not None and batch != pair.row.batch_size):
            continue
        value, low, high = (real(row.get(pair.column + end)) for end in ("", "_low", "_high"))
        if "/" in pair.column:  # of a task: the same at every batch size
            return [(None, value, low, high)]
        found.append((batch if isinstance(batch, int) else None, value, low, high))
    return found or [(None, None, None, None)]


def _mine(value: float | None, low: float | None, high: float | None, places: int) -> Cell:
    if value is None:
        return EMPTY
    ends = None if low is None or high is None else (low, high)
    return Cell(fixed(value, places), span(low, high, places), value, ends=ends)
