"""What a first run meets that goes wrong, through the command line; none of it needs Ray."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import questions, recipe_of, write_source
from click.testing import CliRunner

from stillhouse.cluster.cli import main

DEAD = {
    "name": "t",
    "base_url": "http://127.0.0.1:9/v1",
    "model": "m",
    "terms": {"license": "MIT", "training_use": "permitted"},
}


def write_recipe(root: Path, **changes: Any) -> Path:
    """A recipe file over three prompts, and its source."""
    write_source(root, questions(3))
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(root, **changes).model_dump(mode="json", exclude_none=True)))
    return path


@pytest.mark.parametrize("reference", ["env:SH_NOT_SET", "file:{root}/no-such-key"])
def test_a_missing_key_leaves_nothing_behind(tmp_path: Path, reference: str) -> None:
    """Exit 2 with the reference, before a Ray is started or a folder is made."""
    path = write_recipe(tmp_path, teachers=[DEAD | {"api_key": reference.format(root=tmp_path)}])
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(main, ["run", str(path)])
    assert done.exit_code == 2, done.output
    assert "teachers.t.api_key" in done.output
    assert sorted(tmp_path.rglob("*")) == before
