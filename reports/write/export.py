"""The report's figures and tables as files of their own: SVG, PDF and PNG; CSV, Markdown and LaTeX.

Each figure is drawn once, as SVG; the PDF and the PNG are made from that drawing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from reports.draw.style import Sheet
from reports.draw.svg import Drawing, standalone
from reports.view.parts import Cell, Column, Figure, ReportView, Table, walk
from reports.write.pdf import available, compile_typst, foreign

PNG_DPI = 144.0


def figure_files(figures: Sequence[Figure], drawings: Mapping[str, Drawing], sheet: Sheet) -> dict[str, bytes]:
    """Return the files of `figures/` by name from the drawings of a sheet; SVG alone where Typst is not installed."""
    files: dict[str, bytes] = {}
    if not available():
        return {f"{file_name(p)}.svg": standalone(drawings[p.id], p.alt, sheet.font).encode() for p in figures}
    pages: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for part in figures:
        name, drawing = file_name(part), drawings[part.id]
        text = standalone(drawing, part.alt, sheet.font)
        files[f"{name}.svg"] = text.encode()
        page = f'#page(width: {drawing.width:g}pt, height: {drawing.height:g}pt, margin: 0pt, image("{name}.svg"))'
        # Each figure for itself, so that none depends on what it is made with.
        other = foreign(text)
        pages[other][name] = page
        sources = {"main.typ": page.encode(), f"{name}.svg": files[f"{name}.svg"]}
        files[f"{name}.pdf"] = compile_typst(sources, system_fonts=other, tags=False)[0]
    for other, some in pages.items():
        if some:
            sources = {"main.typ": "\n".join(some.values()).encode()}
            sources |= {f"{name}.svg": files[f"{name}.svg"] for name in some}
            images = compile_typst(sources, system_fonts=other, png_dpi=PNG_DPI)
            files |= {f"{name}.png": image for name, image in zip(some, images, strict=True)}
    return files


def table_files(view: ReportView) -> dict[str, bytes]:
    """Return the files of `tables/` by name; what stands alone says how its numbers came about."""
    files = {}
    for run in (*view.runs, None):
        alone = ReportView("", (), (run,)) if run else ReportView("", (), (), view.board)
        setting = run.setting if run else ()
        for part in walk(alone):
            if isinstance(part, Table):
                name = file_name(part)
                files[f"{name}.csv"] = as_csv(part).encode()
                if part.id.rpartition("-")[2] != "checksums":
                    files[f"{name}.md"] = as_markdown(part, setting).encode()
                    files[f"{name}.tex"] = as_latex(part, setting).encode()
    return files


def titles(view: ReportView, kind: type[Figure] | type[Table]) -> dict[str, str]:
    """Return what each figure or table shows, by the name of its files without the ending."""
    return {file_name(part): part.title for part in walk(view) if isinstance(part, kind)}


def file_name(part: Figure | Table) -> str:
    """Return the name, without ending, under which a figure or table is written."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", part.id).strip("-.")[:120] or "part"
    return re.sub(r"^(r\d+-)?fig-", r"\1", name)


def _heads(table: Table) -> list[str]:
    """One line for each column: group, title, unit."""
    found = []
    for column in table.columns:
        words = " ".join(filter(None, (column.group, column.title)))
        found.append(f"{words} ({column.unit})" if column.unit else words)
    return found


def as_csv(table: Table) -> str:
    """Return a table as CSV: unrounded values, an interval in two further columns, what was not measured empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    wide = [any(row[i].ends for row in table.rows) for i in range(len(table.columns))]
    head: list[str] = []
    for name, has_ends in zip(_heads(table), wide, strict=True):
        head += [name, f"{name} low", f"{name} high"] if has_ends else [name]
    writer.writerow(head)
    for row in table.rows:
        line: list[str] = []
        for column, cell, has_ends in zip(table.columns, row, wide, strict=True):
            line.append(_plain(column, cell))
            if has_ends:
                line += [f"{v + 0.0:.6g}" for v in cell.ends] if cell.ends else ["", ""]
        writer.writerow(line)
    return out.getvalue()


def _plain(column: Column, cell: Cell) -> str:
    """What a program should read: the number behind a cell, or its words; a leading sign cannot start a formula."""
    if column.numeric and isinstance(cell.sort, float):
        return f"{cell.sort + 0.0:.6g}"
    if cell.sort is None and not cell.swatch:
        return ""
    words = "; ".join(filter(None, (cell.text, cell.detail)))
    return f"'{words}" if words[:1] in ("=", "+", "-", "@", "\t") else words


def as_markdown(table: Table, setting: Sequence[str] = ()) -> str:
    """Return a table in the pipes of GitHub's Markdown, intervals in brackets."""
    heads = [_pipe(h) for h in _heads(table)]
    rules = ["---:" if c.numeric and i else "---" for i, c in enumerate(table.columns)]
    lines = [f"**{_pipe(table.title)}**", "", _row(heads), _row(rules)]
    for row in table.rows:
        cells = []
        for cell in row:
            detail = f" [{cell.detail}]" if cell.ends else f"; {cell.detail}" if cell.detail else ""
            text = _pipe(cell.text + detail)
            cells.append(f"**{text}**" if cell.tone == "good" else text)
        lines.append(_row(cells))
    notes = [_pipe(words) for words in (table.note, *setting) if words]
    return "\n".join([*lines, *(line for note in notes for line in ("", note)), ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pipe(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_{}\[\]<>|#~$&!])", r"\\\1", " ".join(text.split()))
    return text


def as_latex(table: Table, setting: Sequence[str] = ()) -> str:
    r"""Return a table for `\input` in a document that loads booktabs and graphicx; it is shrunk to the line where it is wider."""
    spec = "".join("r" if c.numeric and i else "l" for i, c in enumerate(table.columns))
    lines = [
        *(f"% {' '.join(words.split())}" for words in (table.note, *setting) if words),
        "% Needs \\usepackage{booktabs,graphicx}. Shrunk to the line; very wide tables read better on a landscape page.",
        "\\begin{table}", "\\centering", "\\small",
        f"\\caption{{{tex(table.title)}.}}",
        f"\\label{{tab:{file_name(table)}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{spec}}}", "\\toprule",
    ]  # fmt: skip
    lines += _groups(table)
    units = [tex(c.title) + (f" ({tex(c.unit)})" if c.unit else "") for c in table.columns]
    lines += [" & ".join(units) + " \\\\", "\\midrule"]
    for i, row in enumerate(table.rows):
        if i and i in table.starts:
            lines.append("\\addlinespace")
        cells = []
        for cell in row:
            text = tex(cell.text)
            text = f"\\textbf{{{text}}}" if cell.tone == "good" and text else text
            detail = (
                f" {{\\scriptsize[{tex(cell.detail.replace(' to ', ', '))}]}}"
                if cell.ends
                else f"; {tex(cell.detail)}"
                if cell.detail
                else ""
            )
            cells.append(text + detail)
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}}", "\\end{table}", ""])


def _groups(table: Table) -> list[str]:
    """The line of group headers with the rules under them; none where no column has a group."""
    if not any(c.group for c in table.columns):
        return []
    cells, rules, at = [], [], 0
    while at < len(table.columns):
        group, end = table.columns[at].group, at + 1
        while group and end < len(table.columns) and table.columns[end].group == group:
            end += 1
        cells.append(f"\\multicolumn{{{end - at}}}{{c}}{{{tex(group)}}}" if group else "")
        rules += [f"\\cmidrule(lr){{{at + 1}-{end}}}"] if group else []
        at = end
    return [" & ".join(cells) + " \\\\", "".join(rules)]


_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "\u2212": "$-$", "×": r"$\times$", "–": "--", "—": "---", "…": r"\ldots{}",
    "“": "``", "”": "''", "’": "'", "‘": "`", "·": r"$\cdot$", "µ": r"$\mu$", "°": r"$^\circ$", "†": r"$^\dagger$",
    "≤": r"$\le$", "≥": r"$\ge$",
    "\u200c": "", "\u200d": "", "[": "{[}", "]": "{]}",
}  # fmt: skip


def tex(text: str) -> str:
    """Return text as LaTeX shows it; characters beyond Latin are given by their number, so that any engine takes them."""
    shown = []
    for char in " ".join(text.split()):
        if char in _TEX:
            shown.append(_TEX[char])
        elif ord(char) < 0x250:
            shown.append(char)
        else:
            shown.append(f"(U+{ord(char):04X})")
    return "".join(shown)
