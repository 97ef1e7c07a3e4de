"""The pages for people: nothing in them is stale, and no link leads nowhere."""

import re
import subprocess
import sys
from typing import get_args

import click
import pytest
import yaml
from installs import ROOT

from stillhouse.cluster.cli import main
from stillhouse.schemas.failure import FailureKind
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.record import RejectReason

PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "schemas/README.md",
    "gen/README.md",
    "cluster/README.md",
    "cluster/deploy/README.md",
    "scripts/README.md",
    "tests/README.md",
    "tests/cases/README.md",
    "tests/faults/README.md",
)
FILE = re.compile(r"`((?:schemas|gen|cluster|scripts|tests)/[\w./-]+\.(?:py|md|json|yaml))[:`]")
MODULE = re.compile(r"\b(?:source|teachers|dataset|coordination|journal|checks|worker|views|store|simulator)/[\w/]+")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: str) -> str:
    """The page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def yaml_blocks(page: str) -> list[str]:
    """The YAML that a page shows."""
    return re.findall(r"^```yaml\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def test_generated_parts_are_up_to_date() -> None:
    """After changing a field or a column, the script has to be run again."""
    command = [sys.executable, str(ROOT / "scripts" / "make_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page: str) -> None:
    """Relative links and their anchors, and files that are named by their path from the root."""
    text = text_of(page)
    for target in LINK.findall(text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found.read_text(encoding="utf-8")), target
    assert [path for path in FILE.findall(text) if not (ROOT / path).exists()] == []


def test_the_picture_of_the_code_names_existing_files() -> None:
    """Modules and folders of `gen`, in the picture and in the recipes for extending it."""
    named = set(MODULE.findall(text_of("gen/README.md")))
    assert len(named) > 20
    gen = ROOT / "gen"
    assert [name for name in sorted(named) if not (gen / name).exists() and not (gen / f"{name}.py").exists()] == []


def test_the_readme_is_short() -> None:
    """It has what a newcomer needs; everything else has its own page."""
    assert len(text_of("README.md").splitlines()) <= 130


def test_the_readme_lists_every_command() -> None:
    """Each in its table."""
    listed = re.findall(r"`stillhouse ([a-z]+)", text_of("README.md"))
    assert set(main.list_commands(click.Context(main))) <= set(listed)


def test_each_kind_of_row_is_explained() -> None:
    """Reasons of rejection and kinds of Failures, each in a row of its table."""
    rows = "\n".join(re.findall(r"^\| (.+?) \|", text_of("schemas/README.md"), re.MULTILINE))
    assert [kind for kind in (*get_args(RejectReason), *get_args(FailureKind)) if f"`{kind}`" not in rows] == []


@pytest.mark.parametrize("page", ["README.md", "schemas/README.md"])
def test_recipes_in_the_pages_are_valid(page: str) -> None:
    """Whole ones as they are; a section within a recipe that has the rest."""
    blocks = yaml_blocks(page)
    assert blocks
    for block in blocks:
        document = yaml.safe_load(block)
        whole = {"name": "x", "source": {"path": "p.jsonl", "prompt": "q"}, "dataset": {"path": "out"}} | document
        whole.setdefault("teachers", [{"name": "t", "api": "simulator"}])
        for teacher in whole["teachers"]:
            if "dataset" not in document and teacher.get("api") != "simulator":
                teacher["terms"] = {"training_use": "by-authorisation", "authorisation": "a letter"}
        Recipe.model_validate(whole)
