"""The list of commands in `--help`, each with its whole summary."""

import click

_LONGEST_SUMMARY = 1000
"""Width of the list, in characters; click cuts summaries at 45."""


class Commands(click.Group):
    """A group whose help wraps summaries instead of cutting them off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by name, each with the first sentence of its help."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, f"{command.get_short_help_str(_LONGEST_SUMMARY).rstrip('.')}."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
