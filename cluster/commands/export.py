"""`export`: writes a dataset's answers as a file for a trainer."""

import json
import sys
from typing import BinaryIO

import click
import yaml

from stillhouse.cluster.commands.options import Given, clean, dataset_argument
from stillhouse.cluster.commands.output import is_stream, kept, output_path, written
from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import UsageError
from stillhouse.gen.inert import inert
from stillhouse.gen.views.export import FORMATS, Export, Reasoning


@click.command()
@dataset_argument
@click.option("--override", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the recipe.")
@click.option("--format", "format", type=click.Choice(list(FORMATS)), required=True, help="The trainer's format.")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help=("The file to write; - is stdout. By default it is named after the dataset and the format."),
)
@click.option(
    "--reasoning",
    type=click.Choice(["drop", "inline", "field"]),
    default="drop",
    show_default=True,
    help=(
        "What to do with reasoning: drop it, put it into the text between <think> tags, or into `reasoning_content`."
    ),
)
@click.option(
    "--by", metavar="CHECK", help=("The check whose scores rank the answers of a pair; by default the last check.")
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@clean
def export(given: Given, format: str, out: str | None, reasoning: Reasoning, by: str | None, overwrite: bool) -> None:
    """Write the answers of DATASET as JSON Lines for a trainer, and their terms of use to a file beside it.

    trl-sft, messages-jsonl and sharegpt have one line per record. trl-dpo has one line per pair: a record, and an
    answer to the same prompt that a check rejected, starting with the best record and the worst rejected answer.
    """
    store = given.open()
    made = Export(DatasetReader(store), format, reasoning=reasoning, by=by)
    to = out or f"{made.name}-{format}.jsonl"
    if to == "-":
        _write(made, sys.stdout.buffer)
    else:
        path = output_path(to, option="--out", store=store)
        terms_path = output_path(f"{path}.terms.yaml", option="--out", store=store)
        for each in (path, terms_path):
            if each.is_file() and not (overwrite or is_stream(path)):
                raise UsageError(
                    f"{each} exists and is not overwritten; give another --out FILE, or --overwrite to replace it"
                )
        with written(path, option="--out") as file:
            _write(made, file)
            if not is_stream(path):
                kept(file)
                # written before the file they describe
                with written(terms_path, option="--out") as terms:
                    terms.write(yaml.safe_dump(made.terms(), sort_keys=False, width=120).encode())
    for note in made.notes():
        click.echo(f"note: {inert(note)}", err=True)
    for obligation in made.obligations:
        click.echo(f"obligation: {inert(obligation)}", err=True)
    if to != "-":
        click.echo(f"{to}: {counted(made.count, 'row')}")


def _write(made: Export, file: BinaryIO) -> None:
    for row in made.rows():
        file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
