"""The quickstart's recipe and prompts: what a newcomer meets first."""

import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

from stillhouse.schemas.recipe_file import read_recipe

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(str(files("stillhouse.cluster.quickstart")))


def rows() -> list[dict[str, str]]:
    """The committed prompts."""
    return [json.loads(line) for line in (DATA / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_prompts_are_those_the_script_makes(tmp_path: Path) -> None:
    """The committed file is the generator's, byte for byte."""
    made = tmp_path / "prompts.jsonl"
    subprocess.run([sys.executable, ROOT / "scripts" / "make_quickstart.py", made], check=True)
    assert made.read_bytes() == (DATA / "prompts.jsonl").read_bytes()


def test_prompts_are_many_different_and_answered_by_whole_numbers() -> None:
    """600 rows with their own ids, six of them duplicates of another's text, and integer answers."""
    texts = Counter(row["prompt"] for row in rows())
    assert len({row["id"] for row in rows()}) == len(rows()) == 600
    assert sorted(texts.values())[-7:] == [1, 2, 2, 2, 2, 2, 2]
    assert all(row.keys() == {"id", "prompt", "answer"} and row["answer"].isdecimal() for row in rows())


def test_recipe_is_valid_and_names_columns_that_exist() -> None:
    """The recipe is read as it is, and asks the simulator alone."""
    recipe = read_recipe(DATA / "recipe.yaml")
    columns = {recipe.source.prompt, recipe.source.id, *(keep.name for keep in recipe.source.keep)}
    assert columns == {"prompt", "id", "answer"}
    assert [teacher.api for teacher in recipe.teachers] == ["simulator"]
