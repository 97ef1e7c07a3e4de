"""The processes that judge: whatever an answer does to one, it costs that answer alone."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import below, runs
from waiting import wait_until

from stillhouse.gen.checks.base import Answer, CheckResult, Unchecked
from stillhouse.gen.checks.child_process import ChecksBroken
from stillhouse.gen.checks.link import packed
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.errors import UsageError
from stillhouse.schemas.checks import Check

HANGS = r"\boxed{9^{9^{9^{9^9}}}}"
"""In a power of more digits than any memory holds."""
ROW = {"known": "x^2"}
LIMITS = "from stillhouse.gen.checks.confine import limit_resources; limit_resources(memory_bytes=2**30);"


def settings(*checks: dict[str, Any]) -> list[Check]:
    """Checks as a recipe has them."""
    return [Check.model_validate(check) for check in checks]


@pytest.fixture(scope="module")
def maths() -> list[Check]:
    """A cheap check, then math, then one that is reached by right answers alone."""
    return settings({"length": {"max": 10_000_000}}, {"math": {"answer": "known"}}, {"contains": {"text": "x"}})


@pytest.fixture
async def lengths() -> AsyncIterator[CheckPool]:
    """A pool that is ready at once: one child, and a check that loads nothing."""
    async with CheckPool(settings({"length": {"max": 3}}, {"contains": {"text": "a"}}), size=1) as pool:
        yield pool


def children() -> list[int]:
    """Our check processes."""
    return [pid for pid, title in below(os.getpid()).items() if b"stillhouse.gen.checks.child" in title]


def _seen(pid: int) -> tuple[bytes, str]:
    """A process's environment, and the files that it has mapped."""
    return Path(f"/proc/{pid}/environ").read_bytes(), Path(f"/proc/{pid}/maps").read_text()


def _gone(pid: int) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: not runs(pid), what="it has ended", within_s=10)


async def test_verdicts_come_back_in_order_and_stop_at_the_first_that_does_not_accept(lengths: CheckPool) -> None:
    """A thousand answers at once, each with its own verdict."""
    answers = [Answer(text) for _ in range(250) for text in ("abc", "abcd", "bcd", "\ud800a")]
    said = await asyncio.gather(*(lengths.judge(answer, {}) for answer in answers))
    accepted = [[isinstance(each, CheckResult) and each.accepted for each in verdicts] for verdicts in said]
    assert accepted == [[True, True], [False], [True, False], [True, True]] * 250
    assert said[1][0] == CheckResult(False, 4.0, "4 chars, expected at most 3")


async def test_a_hanging_check_costs_only_its_own_answer(maths: list[Check], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child is replaced; the other answers sent to it are still judged, and earlier verdicts are kept."""
    monkeypatch.setattr("stillhouse.gen.checks.pool._GRACE_S", 100.0)  # a busy machine gives CPU time slowly
    async with CheckPool(maths, size=1, timeout_s=0.5) as pool:
        before = children()
        texts = ["\\boxed{x^2}", HANGS, "\\boxed{x^3}", "\\boxed{x \\cdot x}"]
        right, hung, wrong, also_right = await asyncio.gather(*(pool.judge(Answer(text), ROW) for text in texts))
        assert [each.accepted for each in (*right, *also_right)] == [True] * 6  # type: ignore[union-attr]
        assert [each.accepted for each in wrong] == [True, False]  # type: ignore[union-attr]
        assert isinstance(hung[0], CheckResult)
        assert hung[1:] == (Unchecked("took more than 0.5 s of CPU time"),)
        assert children() != before
    assert children() == []


async def test_a_child_that_is_killed_is_replaced(lengths: CheckPool) -> None:
    """While it has nothing to do, and while it has: no answer is lost."""
    (idle,) = children()
    os.kill(idle, signal.SIGKILL)
    await asyncio.to_thread(_gone, idle)
    assert len(await lengths.judge(Answer("abc"), {})) == 2
    (busy,) = children()
    judging = [asyncio.ensure_future(lengths.judge(Answer("abc"), {})) for _ in range(2000)]
    await judging[0]
    os.kill(busy, signal.SIGKILL)
    assert [len(verdicts) for verdicts in await asyncio.gather(*judging)] == [2] * 2000


async def test_a_suspended_child_is_given_up() -> None:
    """Whatever stopped it; the answer is unchecked, with the reason."""
    async with CheckPool(settings({"length": {"max": 3}}), size=1, timeout_s=0.1) as pool:
        child = max(children())
        os.kill(child, signal.SIGSTOP)
        long = Answer("a" * 5_000_000)  # of which the socket takes but a part
        assert await pool.judge(long, {}) == (Unchecked("took more than 2.4 s"),)
        assert await pool.judge(Answer("abc"), {}) == (CheckResult(True, 3.0, "3 chars"),)


@pytest.fixture
def frozen() -> Iterator[None]:
    """As in a worker, the garbage collector skips the objects that already exist."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
async def test_the_event_loop_keeps_running_while_answers_are_judged(maths: list[Check]) -> None:
    """Megabytes included: five of them to math are left unchecked with the reason, and block nothing."""
    async with CheckPool(maths, size=1) as pool:
        held, last = 0.0, time.thread_time()

        async def tick() -> None:
            nonlocal held, last
            while True:
                last = time.thread_time()
                await asyncio.sleep(0)
                held = max(held, time.thread_time() - last)

        ticking = asyncio.create_task(tick())
        answers = [Answer(f"\\boxed{{x^{n % 5}}}") for n in range(300)] + [
            Answer("\u00e9" * 5_000_000, "x" * 600_000)
        ] * 5
        said = await asyncio.gather(*(pool.judge(answer, ROW) for answer in answers))
        ticking.cancel()
        assert said[2][1] == CheckResult(True, 1.0, "x^2")
        unchecked = Unchecked("the answer has 5,000,000 characters; at most 200,000 are read")
        assert [verdicts[1] for verdicts in said[-5:]] == [unchecked] * 5
        began = time.thread_time()
        packed([(answer.text, answer.reasoning) for answer in answers[-5:]])
        at_once = time.thread_time() - began
        assert held < at_once / 2, f"{held * 1000:.0f} ms of CPU time in one go; all at once {at_once * 1000:.0f} ms"


async def test_a_pool_that_cannot_judge_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the child's last message; a pool whose children stop starting fails everything that waits for it."""
    async with CheckPool(settings({"length": {"max": 3}}), size=1) as pool:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        for child in children():
            os.kill(child, signal.SIGKILL)
        with pytest.raises(ChecksBroken, match=r"their process ended with exit code 1$"):
            await pool.judge(Answer("abc"), {})
        with pytest.raises(ChecksBroken):
            await pool.judge(Answer("abc"), {})
    with pytest.raises(UsageError, match=r"their process ended with exit code 1$"):
        async with CheckPool(settings({"length": {"max": 3}})):
            pass
    assert children() == []


async def test_a_child_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is reported even if the child wrote nothing."""
    monkeypatch.setattr("stillhouse.gen.checks.child_process.START_S", 0.0)
    with pytest.raises(UsageError, match=r"their process did not start in time$"):
        async with CheckPool(settings({"length": {"max": 3}}), size=1):
            pass


async def test_an_answer_that_takes_too_much_memory_is_left_unchecked() -> None:
    """The next one is judged by another child."""
    async with CheckPool(settings({"repetition": {"max": 0.5}}), size=1, memory_bytes=2**28) as pool:
        words = " ".join(map(str, range(1_500_000)))
        assert await pool.judge(Answer(words), {}) == (Unchecked("ran out of memory"),)
        assert await pool.judge(Answer("a b c"), {}) == (CheckResult(True, 0.0, "0% of the answer is repeated"),)


async def test_a_child_gets_no_secrets_and_loads_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it runs can leak what is not in its environment; and ray would cost it 72 MB."""
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    async with CheckPool(settings({"length": {"max": 3}}), size=1):
        (child,) = children()
        environment, maps = _seen(child)
        assert b"sk-secret" not in environment
        assert "pydantic_core" in maps
        assert not any(name in maps for name in ("/ray/", "/aiohttp/", "pyarrow"))


async def test_a_cancelled_wait_leaves_the_pool_intact(lengths: CheckPool) -> None:
    """A cancelled answer's verdict is dropped; the next answer gets its own."""
    waiting = asyncio.ensure_future(lengths.judge(Answer("abcd"), {}))
    await asyncio.sleep(0)
    waiting.cancel()
    assert len(await lengths.judge(Answer("abc"), {})) == 2


async def test_a_pool_closed_at_once_leaves_no_child() -> None:
    """Its tasks are cancelled before their first step."""
    before = {*below(os.getpid())}
    async with CheckPool([Check.model_validate({"length": {"max": 3}})], size=1):
        started = {*below(os.getpid())} - before
    assert started
    assert not started & {*below(os.getpid())}


def test_children_die_with_the_process_that_started_them() -> None:
    """However that process ends."""
    code = """
        import asyncio, os
        from stillhouse.gen.checks.pool import CheckPool
        from stillhouse.schemas.checks import Check

        async def main():
            async with CheckPool([Check.model_validate({"length": {"max": 3}})], size=1):
                print("ready", flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (child,) = below(parent.pid)
        parent.kill()
    _gone(child)


@pytest.mark.parametrize(
    ("what", "refused"),
    [
        ("os.fork()", "PermissionError"),
        ("subprocess.run(['true'])", "PermissionError"),
        ("os.posix_spawn('/bin/true', ['true'], {})", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("threading.Thread(target=print).start()", "RuntimeError"),
        ("bytearray(2**31)", "MemoryError"),
        ("open('/tmp/stillhouse-check-test', 'wb').write(bytes(2**21))", "OSError"),
    ],
)
def test_a_child_cannot_exceed_its_memory_share(what: str, refused: str) -> None:
    """No process, thread or program, not even as root; no extra memory, and no large file."""
    code = (
        f"import os, subprocess, threading; {LIMITS}\ntry: {what}\nexcept BaseException as e: print(type(e).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == refused, done
