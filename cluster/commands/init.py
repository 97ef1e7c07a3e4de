"""`init`: writes a first recipe from a file of prompts and a few flags."""

import click

from stillhouse.cluster.commands.options import clean
from stillhouse.cluster.commands.template import TASKS, Task
from stillhouse.schemas.teacher import TEACHER_APIS


@click.command()
@click.argument("prompts")
@click.option("--url", metavar="URL", help="The teacher's base URL, such as http://vllm-0:8000/v1.")
@click.option("--model", metavar="NAME", help="The teacher's model, by the name its server uses.")
@click.option(
    "--api",
    type=click.Choice(TEACHER_APIS),
    help="The protocol. Default: openai-chat with --url, the built-in simulator without it.",
)
@click.option(
    "--api-key",
    metavar="REFERENCE",
    help="Where the key is stored, never the key itself: env:NAME or file:/path. Default: named after the host, "
    "such as env:DEEPSEEK_API_KEY; none for a local server.",
)
@click.option("--prompt", metavar="COLUMN", help="The text column that holds the prompt; detected if possible.")
@click.option("--messages", metavar="COLUMN", help="The column that holds a conversation for the teacher to answer.")
@click.option(
    "--template",
    "task",
    type=click.Choice(TASKS),
    help="A recipe for a common task: judge the answers of a dataset, rewrite them in another style, evolve "
    "prompts into harder ones, or make questions from documents.",
)
@click.option(
    "--out", default="recipe.yaml", show_default=True, metavar="FILE", help=("The recipe to write; - is stdout.")
)
@click.option(
    "--dataset",
    metavar="PATH",
    help="Where to write the dataset: a folder, or s3://…. Default: out/ and the prompts' name.",
)
@click.option(
    "--training-use",
    type=click.Choice(["permitted", "permitted-with-obligations", "by-authorisation"]),
    help=(
        "What the teacher's terms say about training on its answers, if Stillhouse does not know them for the model."
    ),
)
@click.option("--license", metavar="NAME", help="The licence of the weights, or the name of the terms.")
@click.option("--authorisation", metavar="REFERENCE", help="With by-authorisation: the reference of the permission.")
@clean
def init(
    prompts: str,
    url: str | None,
    model: str | None,
    api: str | None,
    api_key: str | None,
    prompt: str | None,
    messages: str | None,
    task: Task | None,
    out: str,
    dataset: str | None,
    training_use: str | None,
    license: str | None,
    authorisation: str | None,
) -> None:
    """Write a recipe that asks PROMPTS (a file, folder, glob, dataset or s3:// URL), ready for `plan` and `run`.

    The prompt column is found by its name and content. Without --url, the recipe asks the built-in simulator, so that
    you can try everything at once, free of charge; a comment in the recipe shows how to switch to a real teacher.
    Nothing is sent, and no file is overwritten.
    """
    from stillhouse.cluster.commands.starter import Terms, whom, write_recipe

    terms = Terms(training_use=training_use, license=license, authorisation=authorisation)
    teacher = whom(url=url, model=model, api=api, api_key=api_key, terms=terms)
    shown = write_recipe(prompts, teacher, out=out, dataset=dataset, prompt=prompt, messages=messages, task=task)
    click.echo(shown, err=True)
