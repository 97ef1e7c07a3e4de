"""The group of all commands: a command's module is loaded when it is wanted, and `--help` lists whole summaries."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

_LONGEST_SUMMARY = 1000
"""Width of the list, in characters; click cuts summaries at 45."""


class Commands(click.Group):
    """A group that loads commands late, so that none waits for what others import.

    `modules` has the module of each such command, in this package; the command has the same name there. The group's
    help wraps summaries instead of cutting them off.
    """

    def __init__(self, *args: Any, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded if need be."""
        if cmd_name not in self._modules:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"stillhouse.cluster.commands.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by name, each with the first sentence of its help."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, f"{command.get_short_help_str(_LONGEST_SUMMARY).rstrip('.')}."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
