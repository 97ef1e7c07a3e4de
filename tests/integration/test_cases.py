"""The folders of tests/cases against the real worker: each reply is served, and what becomes of it was expected.

Replies that settle at once share one run; those that are about an account, an endpoint or a whole run have their own.
"""

import asyncio
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.dataset as ds
import pytest
from builders import recipe_of, write_source
from case_draw import DrawingServer, broken
from case_server import CASES, CaseServer, serving
from case_server import good as good_answer
from harness import run_in_process

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import Paused, StillhouseError
from stillhouse.gen.teachers import evidence
from stillhouse.gen.views.report import report
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe, load_recipe
from stillhouse.schemas.teacher import Teacher

TERMS = {"license": "MIT", "training_use": "permitted", "url": "http://x.local/y"}
NAMES = sorted(str(path.relative_to(CASES))[: -len(".http")] for path in CASES.glob("*/*.http"))

Fate = tuple[str, str | None]
"""(data, rejected or failed; the completion, or the reason)."""

AT_ONCE: dict[str, Fate] = {
    "01-never-fits/413": ("failed", "too_long"),
    "01-never-fits/413-nowords": ("failed", "too_long"),
    "01-never-fits/429-requested": ("failed", "too_long"),
    "02-403-one-prompt/json": ("rejected", "refused"),
    "05-finish-reasons/empty": ("rejected", "unknown_finish"),
    "05-finish-reasons/eos_token": ("data", "Whole answer for eos_token."),
    "05-finish-reasons/missing": ("rejected", "unknown_finish"),
    "05-finish-reasons/model_context_window_exceeded": ("rejected", "length"),
    "05-finish-reasons/null": ("rejected", "unknown_finish"),
    "07-stream-trailer/done": ("data", "Four."),
    "08-compressed/br": ("data", "Four."),
    "08-compressed/gzip": ("data", "Four."),
    "08-compressed/gzip-gzip": ("data", "Four."),
    "08-compressed/named-empty": ("data", "Four."),
    "08-compressed/named-none": ("data", "Four."),
    "09-usage-numbers/float": ("data", "Four."),
    "09-usage-numbers/fraction": ("data", "Four."),
    "09-usage-numbers/other-names": ("data", "Four."),
    "12-policy-words/dashscope": ("rejected", "refused"),
    "12-policy-words/deepseek": ("rejected", "refused"),
    "12-policy-words/finish-safety": ("rejected", "content_filter"),
    "12-policy-words/inspection-finish": ("rejected", "content_filter"),
    "12-policy-words/sensitive": ("rejected", "refused"),
    "13-too-long-words/dashscope-input": ("failed", "too_long"),
    "13-too-long-words/tgi": ("failed", "too_long"),
    "13-too-long-words/tokens-exceed": ("failed", "too_long"),
    "13-too-long-words/vllm-decoder": ("failed", "too_long"),
    "13-too-long-words/vllm-total": ("failed", "too_long"),
    "14-think-in-text/case1": (
        "data",
        "Split the text at the closing tag `</think>`:\n\n    head, _, rest = text.partition('</think>')\n\n"
        "Then strip both.",
    ),
    "14-think-in-text/case2": ("data", "Use `</think>` to close the part."),
    "14-think-in-text/opens-only": ("data", "Write `<think>` first, then `</think>` last."),
    "14-think-in-text/real": ("data", "42"),
    "15-harmony/chatml-tail": ("rejected", "markup"),
    "15-harmony/markers": ("data", "42"),
    "15-harmony/stripped": ("data", "42"),
    "16-all-in-reasoning/reasoning": ("rejected", "only_reasoning"),
    "16-all-in-reasoning/think": ("rejected", "only_reasoning"),
    "16-all-in-reasoning/unclosed": ("rejected", "only_reasoning"),
    "17-no-choice/length": ("rejected", "length"),
    "38-tool-calls/call": ("rejected", "unasked_tool_call"),
    "38-tool-calls/stop-and-empty-list": ("data", "It is noon."),
    "38-tool-calls/text-and-call": ("rejected", "unasked_tool_call"),
    "50-number-out-of-range/1e999": ("data", "Four."),
    "50-number-out-of-range/usage-1e999": ("data", "Four."),
    "51-odd-bodies/bom": ("data", "Four."),
    "51-odd-bodies/latin-1": ("data", "Café."),
    "51-odd-bodies/wrapped-data": ("data", "Four."),
    "52-odd-content/delta": ("data", "Four."),
    "52-odd-content/list-of-strings": ("data", "Four."),
    "52-odd-content/part-text-null": ("data", "Four."),
    "52-odd-content/part-without-type": ("data", "Four."),
    "52-odd-content/reasoning-summary": ("data", "Four."),
    "52-odd-content/unknown-part": ("data", "Four."),
    "53-think-dialects/json-string": ("data", '{"pattern": "</think>", "why": "it ends the thoughts"}'),
    "53-think-dialects/length-in-thought": ("rejected", "length"),
    "53-think-dialects/magistral": ("data", "Four."),
    "53-think-dialects/seed": ("data", "Four."),
    "53-think-dialects/think-attr": ("data", "Four."),
    "53-think-dialects/thinking": ("data", "Four."),
    "54-more-finishes/EOS": ("data", "Whole answer for EOS."),
    "54-more-finishes/completed": ("data", "Whole answer for completed."),
    "54-more-finishes/max_length": ("rejected", "length"),
    "54-more-finishes/normal": ("data", "Whole answer for normal."),
    "54-more-finishes/number-1": ("rejected", "unknown_finish"),
    "54-more-finishes/repetition": ("rejected", "unknown_finish"),
    "55-length-for-all/length": ("rejected", "length"),
    "57-endpoint-404/404": ("failed", "bad_request"),
    "72-gateway-policy/400": ("rejected", "refused"),
    "75-token-ids-beside-tokens/llama-cpp": ("data", " how so"),
    "76-no-logprobs/null": ("data", "four"),
}
"""One request settles these."""

TWICE: dict[str, Fate] = {
    "17-no-choice/empty-choices": ("failed", "malformed"),
    "51-odd-bodies/accepted-202": ("failed", "malformed"),
    "51-odd-bodies/login-html": ("failed", "malformed"),
    "51-odd-bodies/status-699": ("failed", "malformed"),
    "06-upstream-died/error-passing": ("data", None),  # the second try is a good answer
}
"""Whole, of no use, and the same again: no third request."""

OF_A_RUN = {
    "02-403-one-prompt/html",
    "03-gateway-time-limit/504",
    "03-gateway-time-limit/524",
    "04-nat/slow",
    "06-upstream-died/error",
    "06-upstream-died/insufficient_system_resource",
    "10-daily/openrouter",
    "11-choices-null/code-number",
    "11-choices-null/null",
    "11-choices-null/null-60s",
    "18-needs-stream/200-empty",
    "18-needs-stream/400",
    "19-per-teacher/temperature",
    "32-fds/slow",
    "39-system-role/500",
    "43-deadline/slow",
    "58-429-for-one/429",
    "65-headers-lie/remaining-0",
    "70-gateway-budget/422",
    "71-gateway-quota/429",
    "73-gateway-timeout/408",
    "74-gateway-upstream-down/500",
    "77-limit-headers-without-reset/429",
}
"""These have tests of their own, here or (04, 32) where their parts are tested."""


def test_every_reply_has_a_test() -> None:
    """A new file in the folders tested here can't be forgotten."""
    tested = AT_ONCE.keys() | TWICE.keys() | OF_A_RUN
    folders = {name.partition("/")[0] for name in tested}
    assert {name for name in NAMES if name.partition("/")[0] in folders} == tested


def test_every_case_is_named_by_a_test() -> None:
    """Even those without replies; the test that names a case tries it."""
    modules = [path.read_text() for path in CASES.parent.glob("*/test_*.py")]
    folders = {path.name for path in CASES.iterdir() if (path / "expect.txt").exists()}
    assert {name for name in folders if not any(name in module for module in modules)} == set()


def case_recipe(
    tmp_path: Path, url: str, prompts: list[str], *, per_shard: int = 1000, ask: Any = None, **teacher: Any
) -> Recipe:
    """A recipe over these prompts; a prompt that names a reply meets it."""
    write_source(tmp_path, [{"id": f"q{n}", "question": text} for n, text in enumerate(prompts)])
    asked = {"name": "t", "api": "openai-chat", "base_url": url, "model": "made-up-8b", "limits": {"in_flight": 4}}
    price = {"input": 1, "output": 1}
    return recipe_of(
        tmp_path,
        ask=ask or {},
        teachers=[asked | {"terms": TERMS, "price": price} | teacher],
        dataset={"prompts_per_shard": per_shard},
    )


def good(count: int) -> list[str]:
    """Prompts that are answered."""
    return [f"say {n}" for n in range(count)]


def bad(name: str, count: int = 1) -> list[str]:
    """Prompts that meet the reply."""
    return [f"[[{name}]] say {n}" for n in range(count)]


def rows(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """By the reply that a prompt names: its rows, each with the folder it is in."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for folder in ("data", "rejected", "failed"):
        path = Path(recipe.dataset.path) / folder
        for row in ds.dataset(path, format="parquet").to_table().to_pylist() if path.exists() else []:
            name = row["prompt"][0]["content"].partition("]]")[0].removeprefix("[[")
            found[name].append(row | {"folder": folder})
    return found


def fate(row: dict[str, Any]) -> Fate:
    """The outcome of a sample."""
    if row["folder"] == "data":
        return "data", row["completion"][0]["content"]
    return row["folder"], row.get("reject_reason") or row["kind"]


async def run(recipe: Recipe, *, within_s: float = 60.0, crew: list[Worker] | None = None) -> Summary:
    """Run it, in bounded time."""
    async with asyncio.timeout(within_s):
        return await run_in_process(recipe, crew=None if crew is None else crew.extend)


async def test_a_settled_sample_is_read_and_paid_once(tmp_path: Path) -> None:
    """Kinds 5, 6 and 7: whole answers become records, errors are understood, and no reply is paid for three times."""
    names = [*AT_ONCE, *TWICE]
    prompts = [text for name in names for text in [*bad(name, 2), f"say {name[:5]} {len(name)} {name}"]]
    async with serving(CaseServer(latency_s=0.005)) as server:
        recipe = case_recipe(tmp_path, server.url, prompts, ask={"top_logprobs": 2})
        summary = await run(recipe)
        found = rows(recipe)
        expected = AT_ONCE | TWICE
        got = {name: {fate(row) for row in found[name]} for name in names if name != "06-upstream-died/error-passing"}
        assert got == {name: {expected[name]} for name in got}
        assert {row["folder"] for row in found["06-upstream-died/error-passing"]} == {"data"}
        assert {name: server.requests(name) for name in names} == dict.fromkeys(AT_ONCE, 2) | dict.fromkeys(TWICE, 4)
    assert summary.state == "done"
    assert summary.remaining == 0

    real = found["14-think-in-text/real"][0]
    assert (real["reasoning"], real["reasoning_source"]) == ("Six sevens make 42.", "think_tag")
    assert found["15-harmony/markers"][0]["reasoning"] == "Six sevens."
    assert found["53-think-dialects/length-in-thought"][0]["reasoning"] == "Still thinking"
    usage = {name: (row["input_tokens"], row["output_tokens"]) for name, (row, *_) in found.items() if name[:2] == "09"}
    assert usage == {
        "09-usage-numbers/float": (12, 37),
        "09-usage-numbers/fraction": (12, 38),
        "09-usage-numbers/other-names": (12, 37),
    }
    assert found["09-usage-numbers/float"][0]["cost_usd"] == pytest.approx(49e-6)
    cut = found["17-no-choice/length"][0]
    assert (cut["input_tokens"], cut["output_tokens"]) == (30, 4096)
    assert summary.wasted_output_tokens == 2 * 2 * 4096 + 2 * 5
    tokens = found["75-token-ids-beside-tokens/llama-cpp"][0]
    assert (tokens["token_ids"], tokens["top_ids"]) == ([433, 77], [[433, 905], [77, 12]])
    assert "web page (Sign in)" in found["51-odd-bodies/login-html"][0]["message"]
    assert "699" in found["51-odd-bodies/status-699"][0]["message"]
    assert summary.finish_words == {"none": 6, "1": 2, "repetition": 2}
    words = summary.as_text()
    assert "unknown finish reasons (1 2, none 6, repetition 2)" in words
    assert "lack the log-probabilities" in words


async def test_calls_to_offered_tools_are_in_the_message(tmp_path: Path) -> None:
    """Case 38: a record with the call inside, which a trainer reads as chat templates want it; no empty answer."""
    tools = [{"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}]
    names = [name for name in NAMES if name.startswith("38-")]
    async with serving(CaseServer()) as server:
        prompts = [text for name in names for text in bad(name)] + good(2)
        recipe = case_recipe(tmp_path, server.url, prompts, ask={"extra": {"tools": tools}})
        summary = await run(recipe)
    assert (summary.records, summary.rejected, summary.warnings()) == (len(prompts), 0, [])
    path = str(tmp_path / "out" / "data" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    messages = {row["prompt"][0]["content"][2:].partition("]]")[0]: row["completion"][0] for row in loaded}
    call = {"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": {}}}
    said = {name: (messages[name]["content"], messages[name]["tool_calls"]) for name in names}
    assert said == {
        "38-tool-calls/call": ("", [call]),
        "38-tool-calls/stop-and-empty-list": ("It is noon.", None),
        "38-tool-calls/text-and-call": ("Let me look.", [call]),
    }


NOT_AT_RANDOM = {
    "04-nat/slow",
    "77-limit-headers-without-reset/429",  # orders a minute's wait
    "10-daily/openrouter",  # like the next two: a second one with nobody served in between pauses the run
    "70-gateway-budget/422",
    "71-gateway-quota/429",
}


async def test_any_reply_at_any_time(tmp_path: Path) -> None:
    """Each reply is drawn once or twice, for any request: the run ends by itself, counts add up, nothing is paid twice.

    `python -m tests.cases` does the same with 2,000 prompts and the command line.
    """
    names = [name for name in NAMES if name not in NOT_AT_RANDOM]
    server = DrawingServer(names=names, share=0.3, seed=3, latency_s=0.005, hurry=10.0)
    async with serving(server):
        recipe = case_recipe(tmp_path, server.url, good(500), per_shard=100, limits={"in_flight": 16})
        summary = await run(recipe)
    assert set(names) <= server.drawn.keys()
    assert broken(tmp_path / "out", server, summary.model_dump()) == []
    assert summary.state == "done"


FOR_ALL = [
    ("05-finish-reasons/null", "unknown_finish"),
    ("15-harmony/chatml-tail", "markup"),
    ("16-all-in-reasoning/reasoning", "only_reasoning"),
    ("18-needs-stream/200-empty", "empty.*`teachers.t.stream: true`"),
    ("38-tool-calls/call", "ask.tools"),
    ("18-needs-stream/400", r"non-streaming calls \(set this teacher's `stream: true`\)"),
    ("51-odd-bodies/login-html", "web page"),
    ("55-length-for-all/length", r"raise `ask.max_tokens` \(a changed `ask` needs another `dataset.path`\)"),
]


@pytest.mark.parametrize(("name", "words"), FOR_ALL)
async def test_a_run_with_only_unusable_answers_stops(tmp_path: Path, name: str, words: str) -> None:
    """Kind 3: exit 1 with the reason, long before all is paid; the same command repeats nothing that was paid."""
    async with serving(CaseServer()) as server:
        recipe = case_recipe(tmp_path, server.url, bad(name, 300), per_shard=200)
        with pytest.raises(StillhouseError, match=words) as raised:
            await run(recipe)
        assert raised.value.exit_code == 1
        assert len(server.asked) <= 2 * 60
        paid = len(server.asked)
        with pytest.raises(StillhouseError):
            await run(recipe)
        if "400" not in name:
            assert len(server.asked) <= paid + 4


@pytest.mark.parametrize(
    ("name", "words", "corrected"),
    [
        ("54-more-finishes/number-1", r"finish_reasons: \{'1': stop\}", {"finish_reasons": {"1": "stop"}}),
        ("own-tags", r"thinking: \[<open>, <close>\]", {"thinking": ("<|muse|>", "<|/muse|>")}),
    ],
)
async def test_a_corrected_setting_reuses_the_answers_already_paid_for(
    tmp_path: Path, name: str, words: str, corrected: dict[str, Any]
) -> None:
    """`finish_reasons` and `thinking` hold for what is in open journals: nothing is asked twice, the run continues."""
    folder = CASES
    if name == "own-tags":
        folder = tmp_path
        text = b"<|muse|>Two and two.<|/muse|>Four."
        (folder / f"{name}.http").write_bytes(b"HTTP/1.1 200 OK\n\n" + good_answer(1).replace(b"Answer 1.", text))
    async with serving(CaseServer(folder=folder)) as server:
        recipe = case_recipe(tmp_path, server.url, bad(name, 80), per_shard=80)
        with pytest.raises(StillhouseError, match=words):
            await run(recipe)
        teacher = recipe.teachers[0].model_copy(update=corrected)
        summary = await run(recipe.model_copy(update={"teachers": (teacher,)}))
        assert (summary.records, summary.maybe_billed) == (80, 0)
        assert len(server.asked) == 80


@pytest.mark.parametrize(
    ("name", "kind"), [("02-403-one-prompt/html", "bad_request"), ("58-429-for-one/429", "overload")]
)
async def test_a_refusal_of_one_prompt_does_not_stop_the_run(tmp_path: Path, name: str, kind: str) -> None:
    """Kind 4: a refusal that other prompts don't get ends as that sample's Failure, after a few tries."""
    prompts = good(200)
    prompts.insert(90, bad(name)[0])
    async with serving(CaseServer(latency_s=0.002)) as server:
        recipe = case_recipe(tmp_path, server.url, prompts)
        summary = await run(recipe, within_s=30)
        (row,) = rows(recipe)[name]
        assert (summary.records, fate(row)) == (200, ("failed", kind))
        assert "while others were served" in row["message"]
        assert 3 <= server.requests(name) <= 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("02-403-one-prompt/html", "answered HTTP 403"),
        ("10-daily/openrouter", "is back at 2026-11-27 00:00 UTC"),
        ("70-gateway-budget/422", "no money or quota left"),
        ("71-gateway-quota/429", "no money or quota left"),
    ],
)
async def test_refusals_of_every_prompt_pause_the_run(tmp_path: Path, name: str, words: str) -> None:
    """Exit 3 after few wasted requests, from the start or after 100 good answers; nothing fails."""
    for limit in (0, 100):
        async with serving(CaseServer(limit=limit, then=name)) as server:
            recipe = case_recipe(tmp_path / str(limit), server.url, good(300))
            with pytest.raises(Paused, match=words):
                await run(recipe)
            assert server.refused() <= 8
            assert rows(recipe) == {}


@pytest.mark.parametrize("name", ["03-gateway-time-limit/504", "03-gateway-time-limit/524", "73-gateway-timeout/408"])
async def test_a_gateway_timeout_is_the_fault_of_a_long_answer(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limited number of tries that may be billed; other prompts are served meanwhile, and the message helps."""
    async with serving(CaseServer(latency_s=0.01, hurry=2.0)) as server:
        recipe = case_recipe(tmp_path, server.url, [*bad(name), *good(60)], max_attempts=2)
        summary = await run(recipe)
        (row,) = rows(recipe)[name]
    assert (summary.records, fate(row), row["maybe_billed"], row["attempts"]) == (60, ("failed", "ambiguous"), 2, 2)
    assert "are cut on the way" in row["message"]


async def test_overlong_answers_are_given_up_early(tmp_path: Path) -> None:
    """Case 43: two deadlines at full price, not six, and the message says what to change."""
    async with serving(CaseServer(latency_s=0.01)) as server:
        recipe = case_recipe(tmp_path, server.url, [*bad("43-deadline/slow"), *good(20)], timeout_s=2.0)
        summary = await run(recipe)
        (row,) = rows(recipe)["43-deadline/slow"]
    assert (summary.records, fate(row), row["attempts"]) == (20, ("failed", "ambiguous"), 2)
    assert "timeout_s (2 s); raise it" in row["message"]
    words = "1 of 21 answers took longer than timeout_s"
    assert words in summary.as_text()
    assert words in report(open_dataset(recipe))


async def test_an_upstream_that_dies_for_good_is_a_failure(tmp_path: Path) -> None:
    """Case 06: never in data/; `retry` asks it again."""
    names = ["06-upstream-died/error", "06-upstream-died/insufficient_system_resource"]
    async with serving(CaseServer()) as server:
        recipe = case_recipe(tmp_path, server.url, [*good(20), *bad(names[0]), *bad(names[1])], max_attempts=3)
        await run(recipe)
        found = rows(recipe)
    assert [fate(row) for name in names for row in found[name]] == [("failed", "overload")] * 2


async def test_null_choices_are_waited_out(tmp_path: Path) -> None:
    """Case 11: not served, not billed, no Failure; a 429 inside a 200 is a 429."""
    prompts = [*bad("11-choices-null/null-60s", 4), *bad("11-choices-null/code-number", 2), *good(10)]
    async with serving(CaseServer(hurry=10.0)) as server:
        recipe = case_recipe(tmp_path, server.url, prompts, max_attempts=1)
        summary = await run(recipe)
    assert (summary.records, summary.failed, summary.maybe_billed) == (16, 0, 0)


async def test_a_prompt_that_always_gets_null_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 11: after longer and longer waits, while others are served; no attempt counts as billed."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high / 20)
    monkeypatch.setattr(evidence, "OVERLOAD_S", 1.0)
    async with serving(CaseServer()) as server:
        recipe = case_recipe(tmp_path, server.url, [*bad("11-choices-null/null"), *good(10)], max_attempts=1)
        summary = await run(recipe)
        (row,) = rows(recipe)["11-choices-null/null"]
    assert (summary.records, fate(row), row["maybe_billed"]) == (10, ("failed", "overload"), 0)
    assert 3 <= row["attempts"] == server.requests("11-choices-null/null") <= 10
    assert "neither choices nor usage" in row["message"]


async def test_a_limit_without_a_reset_costs_few_refusals(tmp_path: Path) -> None:
    """Case 77: 120 per minute, and the wait under a gateway's own name: each request in flight is refused once."""
    name = "77-limit-headers-without-reset/429"
    async with serving(CaseServer(per_minute=120, then=name, hurry=20.0)) as server:
        recipe = case_recipe(tmp_path, server.url, good(123))
        summary = await run(recipe)
    assert (summary.records, summary.failed) == (123, 0)
    assert 1 <= server.refused() <= 4  # in_flight


async def test_an_upstream_that_is_down_for_all_is_waited_out(tmp_path: Path) -> None:
    """Case 74: every request fails for a while behind a working gateway: no Failure."""
    async with serving(CaseServer(limit=0, then="74-gateway-upstream-down/500", hurry=8.0)) as server:
        recipe = case_recipe(tmp_path, server.url, good(40))
        summary = await run(recipe)
    assert (summary.records, summary.failed) == (40, 0)


async def test_a_server_that_fails_at_every_request_is_given_up(tmp_path: Path) -> None:
    """Case 39: exit 3 with the server's message, instead of six attempts for each sample of a chunk."""
    async with serving(CaseServer(limit=0, then="39-system-role/500")) as server:
        recipe = case_recipe(tmp_path, server.url, good(300))
        patience = recipe.run.model_copy(update={"give_up_after_s": 2.0})
        with pytest.raises(Paused, match=r"only failures .*System role not supported"):
            await run(recipe.model_copy(update={"run": patience}))
        assert len(server.asked) <= 300
    assert rows(recipe) == {}


async def test_a_login_page_in_the_middle_pauses_the_run(tmp_path: Path) -> None:
    """The remaining samples don't become Failures; the same command asks them, and `retry` those that failed."""
    async with serving(CaseServer(limit=60, then="51-odd-bodies/login-html")) as server:
        recipe = case_recipe(tmp_path, server.url, good(300))
        with pytest.raises(Paused, match=r"all failed as malformed .*web page"):
            await run(recipe)
    async with serving(CaseServer()) as server:
        recipe = case_recipe(tmp_path, server.url, good(300))
        summary = await run(recipe)
        assert 50 <= summary.failed <= 60
        assert summary.records == 300 - summary.failed
        retried = await run_in_process(recipe, retry=["malformed"])
    assert (retried.records, retried.failed) == (300, 0)


async def test_wrong_headers_are_not_believed_for_ever(tmp_path: Path) -> None:
    """Case 65: headers say that nothing is left for an hour, yet every request is answered."""
    async with serving(CaseServer()) as server:
        recipe = case_recipe(tmp_path, server.url, bad("65-headers-lie/remaining-0", 60))
        summary = await run(recipe, within_s=40)
    assert summary.records == 60


@pytest.mark.parametrize(("status", "ends"), [("404", "records"), ("401", "paused")])
async def test_refusals_by_one_of_two_endpoints_are_that_endpoints_fault(
    tmp_path: Path, status: str, ends: str
) -> None:
    """Case 57: one serves another model: its samples go to the other, none fails; a refused key pauses by name."""
    async with serving(CaseServer(latency_s=0.005, status_for_all=status)) as server:
        wrong = server.url.removesuffix("/v1") + "/all/57-endpoint-404/404/v1"
        recipe = case_recipe(tmp_path, server.url, good(60), base_url=None, endpoints=[server.url, wrong])
        if ends == "paused":
            with pytest.raises(Paused, match="57-endpoint-404/404/v1 answered HTTP 401"):
                await run(recipe)
            return
        crew: list[Worker] = []
        summary = await run(recipe, crew=crew)
        assert (summary.records, summary.failed) == (60, 0)
        assert any("57-endpoint-404/404/v1" in note for note in crew[0].counters.notes)


async def test_missing_log_probabilities_are_reported_at_the_first_answers(tmp_path: Path) -> None:
    """Case 76: a note while the run continues."""
    crew: list[Worker] = []
    async with serving(CaseServer()) as server:
        recipe = case_recipe(tmp_path, server.url, bad("76-no-logprobs/null", 5), ask={"top_logprobs": 2})
        await run(recipe, crew=crew)
    assert any("log-probabilities were requested" in note for note in crew[0].counters.notes)


async def test_missing_token_ids_are_reported_at_the_first_answers(tmp_path: Path) -> None:
    """By a server that ignores that they were requested; the bytes are in their place."""
    crew: list[Worker] = []
    document = json.loads(good_answer(0))
    document["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97]}]}
    folder = tmp_path / "cases"
    folder.mkdir()
    head = "HTTP/1.1 200 OK\ncontent-type: application/json\n\n"
    (folder / "no-ids.http").write_text(head + json.dumps(document), encoding="utf-8")
    async with serving(CaseServer(folder=folder)) as server:
        ask = {"top_logprobs": 2, "token_ids": True}
        recipe = case_recipe(tmp_path, server.url, bad("no-ids", 5), ask=ask)
        summary = await run(recipe, crew=crew)
    assert (summary.records, summary.no_logprobs) == (5, 0)
    assert any("token ids were requested" in note for note in crew[0].counters.notes)


@pytest.mark.parametrize("name", ["18-needs-stream/200-empty", "18-needs-stream/400"])
async def test_a_stream_only_teacher_is_asked_for_streams(tmp_path: Path, name: str) -> None:
    """Case 18: with `stream: true` it answers."""
    async with serving(CaseServer(only_streams=True)) as server:
        recipe = case_recipe(tmp_path, server.url, bad(name, 2), stream=True)
        assert (await run(recipe)).records == 2
        assert {fate(row)[0] for row in rows(recipe)[name]} == {"data"}
    assert all(body["stream"] is True for body in server.bodies)


async def test_each_teacher_is_asked_with_its_own_parameters(tmp_path: Path) -> None:
    """Case 19: a null removes a parameter for one teacher; record ids and verify know of it."""
    async with serving(CaseServer()) as server:
        recipe = case_recipe(
            tmp_path, server.url, good(20), per_shard=20, ask={"temperature": 0.7, "extra": {"a": 1}}, account="a"
        )
        known = recipe.teachers[0].model_dump(exclude={"simulator"})
        own = {"name": "b", "model": "made-up-r", "ask": {"temperature": None, "max_tokens": 9}, "extra": {"b": 2}}
        recipe = recipe.model_copy(update={"teachers": (recipe.teachers[0], Teacher.model_validate(known | own))})
        summary = await run(load_recipe(dump_recipe(recipe), origin="dumped"))
    assert (summary.records, summary.failed) == (20, 0)
    asked = {body["model"]: {k: v for k, v in body.items() if k not in ("messages", "model")} for body in server.bodies}
    assert asked == {
        "made-up-8b": {"temperature": 0.7, "a": 1},
        "made-up-r": {"max_tokens": 9, "a": 1, "b": 2},
    }
    assert verify(open_dataset(recipe)).ok


async def test_one_teacher_of_two_that_refuses_everything_stops_the_run(tmp_path: Path) -> None:
    """Case 19: b's samples all fail in the same way, although a answers."""
    async with serving(CaseServer()) as server:
        wrong = server.url.removesuffix("/v1") + "/all/19-per-teacher/temperature/v1"
        recipe = case_recipe(tmp_path, server.url, good(200), per_shard=20, ask={"temperature": 0.7}, account="a")
        other = recipe.teachers[0].model_copy(update={"name": "b", "base_url": wrong, "account": "b"})
        crew: list[Worker] = []
        with pytest.raises(StillhouseError, match=r"teacher b .*temperature"):
            await run(recipe.model_copy(update={"teachers": (recipe.teachers[0], other)}), crew=crew)
        assert len(server.asked) < 120
    (note,) = [note for note in crew[0].counters.notes if "refuses the parameter" in note]
    assert note.startswith("teacher b refuses the parameter temperature (Unsupported value: 'temperature'")
    assert "`ask: {temperature: null}`" in note
