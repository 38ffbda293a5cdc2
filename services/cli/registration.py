"""Assemble commands into one application: each is imported when it is called, and all have --json and --no-color.

Completion and `--help` only need names and summaries, so they do not wait for clients and models to be imported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

PACKAGE = "accelerator_autopilot.cli.commands"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", show_default=False)]
NoColor = Annotated[
    bool, typer.Option("--no-color", help="Print without colour, as NO_COLOR=1 does.", show_default=False)
]
_SHARED = {"as_json": Json, "no_color": NoColor}
CONTEXT = {"help_option_names": ["--help", "-h"]}


@dataclass(frozen=True)
class Command:
    """A command: the module of its function (which has its name), its summary, and an example."""

    name: str
    module: str
    section: str
    summary: str
    example: str

    def function(self) -> Callable[..., None]:
        """Import its function."""
        found: Callable[..., None] = getattr(import_module(f"{PACKAGE}.{self.module}"), self.name, None) or getattr(
            import_module(f"{PACKAGE}.{self.module}"), f"{self.name}_"
        )
        return found

    def load(self) -> Any:
        """Create the command that parses arguments and calls the function."""
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        epilog = f"\b\nExample:\n  {self.example}"
        alone.command(self.name, epilog=epilog, context_settings=CONTEXT)(with_shared_options(self.function()))
        return typer.main.get_command(alone)


class LazyGroup(TyperGroup):
    """Commands that are imported when they are called, listed in sections."""

    known: Sequence[Command] = ()

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for command in self.known:
            self.add_command(TyperCommand(command.name, help=command.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that these arguments name, imported now."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        wanted = next((c for c in self.known if c.name == name), None)
        return name, wanted.load() if wanted is not None else placeholder, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the group's interface
        """Write the sections one after another."""
        widest = max((len(c.name) for c in self.known), default=0)
        for section in dict.fromkeys(c.section for c in self.known):
            with formatter.section(section):
                rows = [(c.name.ljust(widest), c.summary) for c in self.known if c.section == section]
                formatter.write_dl(rows)


def with_shared_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with the options that all commands have."""

    @functools.wraps(function)
    def called(*, as_json: bool = False, no_color: bool = False, **arguments: Any) -> None:
        from accelerator_autopilot.cli import output  # noqa: PLC0415  help and completion do without

        output.use(json=as_json, color=False if no_color else None)
        function(**arguments)

    signature = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _SHARED.items()
    ]
    parameters = [*signature.parameters.values(), *more]
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called
