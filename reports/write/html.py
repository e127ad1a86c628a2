"""Lay a report view out as one HTML file that needs nothing beside itself: no network, no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files

import jinja2
from markupsafe import Markup, escape

from reports.draw.figures import draw_all
from reports.draw.style import COLOURS, PAGE
from reports.draw.svg import Drawing, inline, sign, signs
from reports.view.parts import Column, Figure, ReportView, RunView, Swatch, Table
from reports.write.export import file_name


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["groups"] = header_groups
    environment.filters["breakable"] = breakable
    environment.filters["kept"] = kept
    environment.filters["file"] = file_name
    environment.filters["families"] = families
    environment.tests["part"] = lambda block, name: type(block).__name__ == name
    return environment


def html(view: ReportView, drawings: Mapping[str, Drawing] | None = None, *, printed: bool = True) -> str:
    """Return the report as one HTML document; the same view gives the same bytes.

    `drawings` holds the figures as drawn for the page, by id, where the caller has them already; `printed`: whether they
    are there as PDF and PNG too.
    """
    drawn = draw_all(view, PAGE) if drawings is None else drawings
    swatches: set[Swatch] = set()

    def drawing(figure: Figure) -> Markup:
        return Markup(inline(drawn[figure.id], figure.alt))

    def sign_of(swatch: Swatch) -> Markup:
        swatches.add(swatch)
        return Markup(sign(swatch))

    script = _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template("report.html.j2")
    # Both are files of this package, not results, and stand in elements whose content HTML does not unescape.
    laid_out = page.render(
        view=view, svg=drawing, sign=sign_of, style=Markup(_palette() + _read("report.css")), script=Markup(script),
        script_hash=digest, signs=Markup(_MARK),
        drawn_as=_PRINTED if printed else _PRINTED[:1],
    )  # fmt: skip
    return laid_out.replace(_MARK, signs(swatches), 1)


_PRINTED = (("SVG", "svg"), ("PDF", "pdf"), ("PNG", "png"))
_MARK = "\0"
"""Stands for the shapes of the signs, which are known last; reports.text lets no such character through."""


def _read(name: str) -> str:
    return (files("reports") / "templates" / name).read_text(encoding="utf-8")


def _palette() -> str:
    light = "".join(f"--{name}:{value};" for name, (value, _) in COLOURS.items())
    dark = "".join(f"--{name}:{value};" for name, (_, value) in COLOURS.items())
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def breakable(words: str) -> Markup:
    """Return words with places where a line may end after the colons and underscores of a long name, as tasks have."""
    return Markup(_INSIDE.sub(r"\g<0><wbr>", str(escape(words))))


_INSIDE = re.compile(r"(?<=\w{3})[:_](?=\w)")


def kept(table: Table) -> frozenset[int]:
    """Return the columns that a narrow screen shows: the first and two more."""
    keys = [i for i, c in enumerate(table.columns) if c.key] or [i for i, c in enumerate(table.columns) if c.numeric]
    return frozenset([0, *[i for i in keys if i][:2]]) if any(keys) else frozenset([0, 1])


def families(run: RunView) -> list[tuple[str, list[str]]]:
    """Return the families of the arms in a run's tables, each with its methods, in the order of their rows."""
    found: dict[str, dict[str, None]] = {}
    for section in run.sections:
        for block in section.blocks:
            for row in block.rows if isinstance(block, Table) else ():
                if row[0].swatch and row[0].swatch.family:
                    found.setdefault(row[0].swatch.family, {})[row[0].swatch.method] = None
    return [(family, list(methods)) for family, methods in found.items()]


def header_groups(table: Table) -> list[tuple[str, list[Column]]]:
    """Return the columns in runs that share a group header; a column without a group is a run of its own."""
    runs: list[tuple[str, list[Column]]] = []
    for column in table.columns:
        if runs and column.group and runs[-1][0] == column.group:
            runs[-1][1].append(column)
        else:
            runs.append((column.group, [column]))
    return runs
