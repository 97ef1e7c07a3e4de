"""The check `function`: what a user's code may return, and how misbehaving code is handled."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest
from builders import answer, body_of, index, open_chunk, questions, recipe_of, write_source
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main
from stillhouse.gen.checks.base import Answer, CheckResult, Unchecked, Verdict
from stillhouse.gen.checks.chunk_function import ChunkFunction
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.shard_meta import read_meta
from stillhouse.gen.errors import UsageError
from stillhouse.gen.views.preview import preview
from stillhouse.schemas.checks import Check
from stillhouse.schemas.function_check import FunctionCheck
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, dump_recipe, load_recipe

CODE = '''
import os, time

def polite(record):
    """A score, a reason, and a column of its own."""
    words = record["text"].split()
    found = {"accepted": "please" in words, "score": len(words) / 10, "reason": "counted"}
    return found | {"words": len(words), "level": record["row"]["level"]}

def yes(record): return True
def scored(record): return False, 0.5
def nothing(record): return None
def number(record): return 1
def undeclared(record): return {"accepted": True, "extra": 1}
def nan(record): return True, float("nan")
def text(record): return {"accepted": True, "score": "high"}
def raises(record): raise KeyError("missing")
def leaves(record): raise SystemExit(3)
def dies(record): os._exit(3)
def spins(record):
    while True: pass
def sleeps(record): time.sleep(600)
value = 3
'''


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, in the folder in which he types."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def check(function: str, **settings: Any) -> Check:
    """The check of this function."""
    return Check.model_validate({"function": {"name": f"mine.py:{function}"} | settings})


async def judged(checks: list[Check], *, row: dict[str, str] | None = None) -> tuple[Verdict, ...]:
    """The checks' verdict on one answer."""
    async with CheckPool(checks, size=1, timeout_s=0.5) as pool:
        return await pool.judge(Answer("yes please", None, 2), row or {})


async def test_a_function_may_return_any_verdict() -> None:
    """A bool, a tuple, or a dict with a score, a reason and columns of declared types."""
    own = {"columns": ["level"], "returns": {"words": "int64", "level": "string"}}
    found = await judged([check("yes"), check("polite", **own), check("scored")], row={"level\0json": '"B2"'})
    assert found == (
        CheckResult(True, None, ""),
        CheckResult(True, 0.2, "counted", {"words": 2, "level": "B2"}),
        CheckResult(False, 0.5, ""),
    )


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("nothing", "expected True or False, a tuple (accepted, score, reason), or a dict with `accepted`, got None"),
        ("number", "got 1"),
        ("undeclared", "returned 'extra': declare it, such as `returns: {extra: float64}`"),
        ("nan", "returned score = nan: expected a float64"),
        ("text", "returned score = 'high': expected a float64"),
        ("raises", "mine.py:raises raised KeyError: 'missing'"),
        ("leaves", "raised SystemExit: 3"),
        ("dies", "the check's process ended with exit code 3"),
        ("spins", "took more than 0.5 s of CPU time"),
    ],
)
async def test_an_invalid_verdict_leaves_the_answer_unchecked(
    function: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, whatever the code does."""
    monkeypatch.setattr("stillhouse.gen.checks.pool._GRACE_S", 100.0)  # a busy machine gives CPU time slowly
    (verdict,) = await judged([check(function)])
    assert isinstance(verdict, Unchecked)
    assert reason in verdict.reason


async def test_a_function_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses no CPU, so only the clock ends it."""
    monkeypatch.setattr("stillhouse.gen.checks.pool._GRACE_S", 0.0)
    async with CheckPool([check("sleeps")], size=1, timeout_s=0.25) as pool:
        (verdict,) = await pool.judge(Answer("yes please"), {})
    assert verdict == Unchecked("took more than 1 s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nosuch", "importing mine.py raised ModuleNotFoundError: No module named 'nosuch'"),
        ("raise SystemExit(1)", "importing mine.py raised SystemExit: 1"),
        ("yes = 3", "expected a function 'yes' in mine.py, got a int"),
        ("", "got nothing of that name"),
        ("import os; os._exit(4)", "ended with exit code 4"),
    ],
)
def test_code_that_does_not_load_is_refused_at_the_start(code: Path, text: str, message: str) -> None:
    """Before anything is asked; by `plan` too."""
    code.write_text(text)
    write_source(code.parent, questions(1))
    with pytest.raises(UsageError) as caught:
        preview(recipe_of(code.parent, checks=[{"function": {"name": "mine.py:yes"}}]))
    assert message in str(caught.value)
    with pytest.raises(UsageError, match=r"checks: .*") as caught:
        asyncio.run(judged([check("yes")]))
    assert message in str(caught.value)


def test_plan_refuses_code_that_does_not_load(code: Path, tmp_path: Path) -> None:
    """As the run would, with its exit code."""
    code.write_text("import nosuch")
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path, checks=[{"function": {"name": "mine.py:yes"}}])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "recipe.yaml")])
    assert (result.exit_code, "No module named 'nosuch'" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gone.py:f"}, "expected the path of a Python file"),
        ({"name": "mine.py"}, "should match pattern"),
        ({"name": "mine.py:yes", "returns": {"score": "int64"}}, "returns: score always exists"),
        ({"name": "mine.py:_hidden"}, "add `as: NAME`"),
    ],
)
def test_a_recipe_that_names_no_function_is_refused(settings: dict[str, Any], message: str) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match="function") as caught:
        Check.model_validate({"function": settings})
    assert message in str(caught.value)


def test_faulty_code_is_refused_with_its_line(code: Path) -> None:
    """When the recipe is read."""
    code.write_text("x = 1\ndef f(:\n")
    with pytest.raises(ValueError, match=r"mine.py, line 2: not valid Python"):
        check("f")
    for nested in ("-" * 100_000 + "1", "(" * 100_000, "a" + ".b" * 90_000, "x\0"):
        code.write_text(nested)
        with pytest.raises(ValueError, match=r"mine.py.*: not valid Python"):
            check("f")
    code.unlink()
    with pytest.raises(ValueError, match=r"got '.*mine.py', which can't be read as such: there is no such file"):
        check("f")


def test_a_recipe_with_embedded_code_needs_no_file(code: Path) -> None:
    """As a cluster and a retry read it; the user's own recipe must name an existing file."""
    text = """
        name: x
        source: {path: p.jsonl, prompt: q}
        teachers: [{name: sim, api: simulator}]
        checks: [{function: {name: "mine.py:polite", as: politeness, columns: [level], returns: {words: int64}}}]
        dataset: {path: out}
    """
    recipe = load_recipe(text, origin="r.yaml")
    code.unlink()
    again = load_recipe(dump_recipe(recipe), origin="last_run.yaml")
    assert (again, again.identity()) == (recipe, recipe.identity())
    with pytest.raises(RecipeError, match=r"r\.yaml:5: checks\.0\.function: name: expected the path of a Python file"):
        load_recipe(text, origin="r.yaml")


def test_the_code_is_part_of_the_identity(code: Path, tmp_path: Path) -> None:
    """A file by what it holds, wherever it is; a module by its file's hash."""
    write_source(tmp_path, questions(1))
    first = recipe_of(tmp_path, checks=[{"function": {"name": "mine.py:yes"}}])
    (tmp_path / "moved.py").write_text(CODE)
    moved = recipe_of(tmp_path, checks=[{"function": {"name": "moved.py:yes"}}])
    assert first.identity() == moved.identity()
    code.write_text(f"{CODE}\n")
    assert recipe_of(tmp_path, checks=[{"function": {"name": "mine.py:yes"}}]).identity() != first.identity()
    again = Recipe.model_validate_json(first.model_dump_json())
    assert again.identity() == first.identity(), "the file travels with the recipe"
    module = recipe_of(tmp_path, checks=[{"function": {"name": "json.decoder:scanstring"}}]).identity()
    assert len(module["checks"][0]["function"]["sha256"]) == 64


def test_a_run_stores_the_functions_verdicts(tmp_path: Path) -> None:
    """In the column `checks` and in the function's columns, in data/ and rejected/."""
    rows = [{**row, "level": {"of": number}} for number, row in enumerate(questions(6))]
    write_source(tmp_path, rows)
    (tmp_path / "mine.py").write_text(
        "def even(record):\n"
        "    n = record['row']['level']['of']\n"
        "    return {'accepted': n % 2 == 0, 'score': float(n), 'half': n / 2}\n"
    )
    settings = {"name": "mine.py:even", "columns": ["level"], "returns": {"half": "float64"}, "as": "evenness"}
    recipe = recipe_of(tmp_path, checks=[{"function": settings}])
    summary = asyncio.run(run_in_process(recipe))
    assert (summary.records, summary.rejected_by_reason) == (3, {"check:evenness": 3})
    data = pads.dataset(tmp_path / "out" / "data").to_table().to_pylist()
    assert sorted(row["checks"]["evenness"]["half"] for row in data) == [0.0, 1.0, 2.0]
    assert data[0]["checks"]["evenness"].keys() == {"accepted", "score", "detail", "half"}
    assert index(recipe) is None, "all is planned"
    (stored,) = read_meta(open_dataset(recipe), ChunkId(0, 0)).identity["checks"]
    assert stored["function"]["sha256"] == hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()


def test_a_module_is_imported_in_the_check_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name; its hash is in each shard. Once it is changed, neither a node nor a later run takes it."""
    module = tmp_path / "installed" / "my_package" / "rules.py"
    module.parent.mkdir(parents=True)
    (module.parent / "__init__.py").touch()
    module.write_text("def kind(record): return '1' in record['text'], 0.5, __name__\n")
    monkeypatch.syspath_prepend(module.parents[1])
    monkeypatch.setenv("PYTHONPATH", str(module.parents[1]))
    write_source(tmp_path, questions(6))
    settings = {"function": {"name": "my_package.rules:kind"}}
    recipe = recipe_of(tmp_path, checks=[settings])
    summary = asyncio.run(run_in_process(recipe))
    assert summary.records + summary.rejected == 6
    rows = pads.dataset([str(path) for path in (tmp_path / "out").glob("*/part-*.parquet")]).to_table().to_pylist()
    said = {"score": 0.5, "detail": "my_package.rules"}
    assert all(row["checks"]["kind"] | said == row["checks"]["kind"] for row in rows)
    (stored,) = read_meta(open_dataset(recipe), ChunkId(0, 0)).identity["checks"]
    assert stored["function"]["sha256"] == hashlib.sha256(module.read_bytes()).hexdigest()

    module.write_text("def kind(record): return True\n")
    with pytest.raises(UsageError, match=r"my_package\.rules on this node is not the one that the run started with"):
        asyncio.run(judged(list(recipe.checks)))
    with pytest.raises(UsageError, match=r"was created with a different recipe.* they differ in checks"):
        asyncio.run(run_in_process(recipe_of(tmp_path, checks=[settings])))


CHUNKS = '''
import pyarrow as pa, pyarrow.compute as pc, os, time

def longest(table):
    """Accept the longest answers of the chunk, by a column of the source too."""
    sizes = pc.add(pc.utf8_length(table["text"]), pc.struct_field(table["row"].combine_chunks(), "bonus"))
    best = pc.max(sizes)
    count = [table.num_rows] * table.num_rows
    return pa.table({"accepted": pc.equal(sizes, best), "score": pc.cast(sizes, pa.float64()), "of": count})

def array(table): return pc.greater(table["tokens"], 1)
def tuples(table): return [(True, 0.5, "fine")] * table.num_rows
def short(table): return [True]
def raises(table): raise ValueError("no")
def dies(table): os._exit(3)
def sleeps(table): time.sleep(60)
def fills(table): return b"x" * 5 * 2**30
def fills_arrow(table): return pa.allocate_buffer(5 * 2**30)
'''


def whole(function: str, **settings: Any) -> FunctionCheck:
    """The settings of this function, which judges whole chunks."""
    Path("chunks.py").write_text(CHUNKS)
    return FunctionCheck.model_validate({"name": f"chunks.py:{function}", "per": "chunk"} | settings)


async def test_a_function_judges_a_chunk_as_a_table() -> None:
    """And returns a table, an array or a list with a row for each."""
    own = {"columns": ["bonus"], "returns": {"of": "int64"}}
    answers = [(Answer(text, None, 2), {"bonus\0json": str(bonus)}) for text, bonus in (("a", 0), ("bb", 0), ("c", 1))]
    assert await ChunkFunction(whole("longest", **own)).judge(answers) == [
        CheckResult(False, 1.0, "", {"of": 3}),
        CheckResult(True, 2.0, "", {"of": 3}),
        CheckResult(True, 2.0, "", {"of": 3}),
    ]
    assert await ChunkFunction(whole("array")).judge(answers) == [CheckResult(True, None, "")] * 3
    assert await ChunkFunction(whole("tuples")).judge(answers) == [CheckResult(True, 0.5, "fine")] * 3


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("short", "with as many rows as it was given, 2, got 1"),
        ("raises", "raised ValueError: no"),
        ("dies", "ended with exit code 3"),
        ("sleeps", "took more than 3 s"),
        ("fills", "raised MemoryError"),
        ("fills_arrow", "raised ArrowMemoryError"),
    ],
)
async def test_a_function_that_fails_leaves_its_chunk_unchecked(function: str, reason: str) -> None:
    """Every answer in it, with the reason; nothing of the function keeps running."""
    timeout_s = 3 if function == "sleeps" else 300
    found = await ChunkFunction(whole(function), timeout_s=timeout_s).judge([(Answer("a"), {}), (Answer("b"), {})])
    assert len(found) == 2
    assert all(isinstance(each, Unchecked) and reason in each.reason for each in found)


def test_a_run_judges_each_chunk_once_it_is_answered(tmp_path: Path) -> None:
    """What other checks reject is not in the table; a recovered chunk is judged on the same table."""
    rows = [{**row, "bonus": number % 3} for number, row in enumerate(questions(6))]
    write_source(tmp_path, rows)
    settings = whole("longest", columns=["bonus"], returns={"of": "int64"}).model_dump(mode="json")
    checks = [{"regex": {"pattern": "1"}}, {"function": settings}]
    recipe = recipe_of(tmp_path, checks=checks, dataset={"prompts_per_shard": 3})
    index(recipe)
    held = open_chunk(recipe)
    for ordinal, text in enumerate(("answer 1", "answer 1", "nothing")):
        answer(held, ordinal, body_of(text))
    passed = CheckResult(True, 1.0, "found 1")
    held.judged(1, (passed, CheckResult(False, 9.0, "", {"of": 2})), at=1.0)
    held.journal.close()  # its worker died in the middle of writing the verdicts

    summary = asyncio.run(run_in_process(recipe))
    assert summary.records + summary.rejected == 6
    first = [
        row
        for kind in ("data", "rejected")
        for file in sorted((tmp_path / "out" / kind).glob("part-000-000000*.parquet"))
        for row in pads.dataset(file).to_table().to_pylist()
    ]
    said = {row["prompt_id"]: row["checks"] for row in first}
    assert said["q2"] == {"regex": {"accepted": False, "score": 0.0, "detail": "not found"}, "longest": None}
    assert said["q1"]["longest"] == {"accepted": False, "score": 9.0, "detail": "", "of": 2}, "which stands"
    assert said["q0"]["longest"] == {"accepted": False, "score": 8.0, "detail": "", "of": 2}


def test_a_function_of_chunks_is_the_last_check(tmp_path: Path) -> None:
    """Because it is called once all others have decided."""
    function = {"function": {"name": "json:loads", "per": "chunk"}}
    with pytest.raises(ValueError, match=r"loads judges whole chunks.*put it last"):
        recipe_of(tmp_path, checks=[function, {"length": {"min": 1}}])
