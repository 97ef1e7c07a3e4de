"""`--help` is whole: no summary is cut, every option is explained, in sentences."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from stillhouse.cluster.cli import main
from stillhouse.schemas import __version__


def said(*args: str) -> str:
    """The command's output, on one line."""
    done = CliRunner().invoke(main, [*args])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def commands() -> Iterator[tuple[str, click.Command]]:
    """All of them."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield name, command


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_each_command_is_listed_with_its_whole_summary(name: str, command: click.Command) -> None:
    """The summary is the first sentence of the command's own help."""
    summary = " ".join((command.help or "").split()).split(". ")[0].rstrip(".")
    assert len(summary) > 20
    assert f"{name} {summary}." in said("--help")
    assert said("--help").count("...") == 1  # of the usage


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_each_option_is_explained_in_a_sentence(name: str, command: click.Command) -> None:
    """Beginning like one, and ending like one; what it takes has a name."""
    assert said(name, "--help").startswith(f"Usage: main {name} ")
    for option in command.get_params(click.Context(command, info_name=name)):
        if isinstance(option, click.Option):
            text = (option.help or "").partition("  [")[0]
            assert text[:1].isupper() or text.partition(":")[0] in getattr(option.type, "choices", ()), option.name
            assert text.endswith("."), option.name
            assert option.metavar != "TEXT"
    assert " TEXT " not in said(name, "--help")


def test_the_version_is_printed() -> None:
    """The same one as the package's."""
    assert said("--version") == f"stillhouse, version {__version__}"
