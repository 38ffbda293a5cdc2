"""The reference page of the command line, from the commands themselves."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from accelerator_autopilot.cli.app import app
from accelerator_autopilot.cli.registration import PACKAGE
from accelerator_autopilot.cli.table_layout import Table

EVERYWHERE = frozenset({"--data-dir", "--json", "--no-color"})


def command_sections() -> list[str]:
    """Lines of Markdown: a heading for each section and command, its summary, arguments, options and an example."""
    known = typer.main.get_command(app).known  # type: ignore[attr-defined]
    lines = table_lines(sorted({command.module for command in known}))
    for section in dict.fromkeys(command.section for command in known):
        lines += [f"## {section}", ""]
        for command in (c for c in known if c.section == section):
            lines += [f"### {command.name}", "", command.summary, ""]
            rows = [_row(p) for p in command.load().params if not EVERYWHERE & set(p.opts)]
            if rows:
                lines += ["| argument or option | meaning | default |", "| --- | --- | --- |", *rows, ""]
            lines += ["```", command.example, "```", ""]
    return lines


def table_lines(modules: list[str]) -> list[str]:
    """The fields of every table that these modules print."""
    found = [value for name in modules for value in vars(import_module(f"{PACKAGE}.{name}")).values()]
    tables = sorted((value for value in found if isinstance(value, Table)), key=lambda table: table.name)
    rows = [f"| `{table.name}` | {', '.join(f'`{column.key}`' for column in table.columns)} |" for table in tables]
    return ["## Tables", "", "| table | fields of a row |", "| --- | --- |", *rows, ""]


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}{'...' if parameter.nargs == -1 else ''}`"
    else:
        name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    meaning = (parameter.help or "").replace("|", "\\|")
    default = parameter.default
    shown = (
        "" if default is None or default is False or callable(default) else f"`{getattr(default, 'value', default)}`"
    )
    return f"| {name} | {meaning} | {shown} |"
