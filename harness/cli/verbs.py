"""How verbs read their arguments and show their help: groups of whole sentences at 80 columns, nothing given twice or empty."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

GROUPS = ("Measure and report", "Look at one model or this machine", "Make weights and choose parameters")
"""Groups of verbs, in the order in which `--help` shows them."""

FREE_TEXT = ("prompt", "continuation", "system_instruction", "gen_kwargs")
"""Parameters that may be given as an empty text."""

_ANY_COUNT = re.compile(rf"(; )?\d<=x<={2**31 - 1}")
"""How a count's range is shown; what is out of it says so when it is given."""


class Verb(TyperCommand):
    """A verb. An option that takes one value and is given twice is refused: taking the last one hides typing mistakes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, after a look at what was given twice and what was given empty."""
        if not ctx.resilient_parsing:
            given, _, order = self.make_parser(ctx).parse_args(args=list(args))
            named: list[Any] = [param for param in order if param.param_type_name == "option"]
            for param in named:
                if named.count(param) > 1 and not (param.multiple or param.is_flag):
                    ctx.fail(f"{param.opts[0]} is given twice; give it once.")
            for param in order:
                value = given.get(param.name)
                values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
                if param.name not in FREE_TEXT and any(isinstance(v, str) and not v.strip() for v in values):
                    name = param.opts[0] if param.param_type_name == "option" else str(param.name).upper()
                    ctx.fail(f"{name} is empty; give a value, or leave it out.")
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As click has them, arguments in capitals and without braces."""
        options, *arguments = super().collect_usage_pieces(ctx)
        return [options, *(piece.strip("{}").replace("}...", "...").upper() for piece in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, options, then the groups of options in the order in which they are declared."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            name, text = record
            title = "Options"
            if param.param_type_name == "argument":
                title, name = "Arguments", name.split(" <")[0].strip("[]{}").upper()
                text = text.removesuffix("  [required]")
            text = _ANY_COUNT.sub("", text).removesuffix("  []")
            groups.setdefault(getattr(param, "rich_help_panel", None) or title, []).append((name, text.rstrip()))
        for title in ("Arguments", "Options", *groups):
            if records := groups.pop(title, None):
                _section(formatter, title, records)


class Verbs(TyperGroup):
    """All verbs, in groups, each with the first sentence of its help, whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The verbs by their groups."""
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                text = " ".join((command.help or "").split("\n\n")[0].split())
                groups[command.rich_help_panel].append((name, text))
        for title, records in groups.items():
            _section(formatter, title, records)


def _section(formatter: Any, title: str, records: Sequence[tuple[str, str]]) -> None:
    with formatter.section(title):
        formatter.write_dl(records, col_max=26)
