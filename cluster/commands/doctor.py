"""Checks that a run would work from here by trying each part for real: one finding per line, with how to fix it.

It leaves nothing behind, but it sends one short request to each endpoint of each teacher, which may be billed.
"""

import asyncio
import platform
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.checks.trial import try_checks
from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.binding import binding_for
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.inert import inert
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.journal.journals import journals_folder
from stillhouse.gen.teachers.given_scores import aligned
from stillhouse.gen.teachers.google_tokens import GoogleTokens, TokenAway
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import Credentials, credentials_of, redacted
from stillhouse.gen.teachers.outcome import Auth, BadRequest, Money, Overload, Rate
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.server_clock import ServerClock
from stillhouse.gen.teachers.server_clock import ahead_s as server_ahead_s
from stillhouse.gen.teachers.token_scores import TokenScores
from stillhouse.gen.teachers.transport import HttpRequest, Lost, NotSent, Reply
from stillhouse.gen.worker.verdicts import rejected_by_rules
from stillhouse.schemas import __version__
from stillhouse.schemas.arrow import columns_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.parameters import TeacherParameters
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import offered
from stillhouse.schemas.version import SCHEMA_VERSION

MOST_TOKENS = 16
"""Maximum number of tokens to ask for."""
TIMEOUT_S = 60.0
MOST_SKEW_S = 60.0
LITTLE_DISK_BYTES = 5 * 2**30
NO_DISK_BYTES = 256 * 2**20


class Finding(BaseModel):
    """The result of one attempt."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: Literal["ok", "warn", "fail"]
    message: str
    fix: str = ""

    def as_text(self) -> str:
        """The finding for people; a second line says how to fix it."""
        line = f"{self.state:<5}{self.name:<10} {self.message}"
        return f"{line}\n{'':<16}-> {self.fix}" if self.fix else line


def examine(recipe: Recipe | None, *, address: str | None = None) -> Iterator[Finding]:
    """Try everything a run needs, in the order of a run; without a recipe, only this machine and the cluster.

    Args:
        recipe: the recipe to try.
        address: a cluster's host:port, or its dashboard's http address; by default a Ray is started here.
    """
    yield from _ray(address)
    if recipe is not None:
        yield from examine_recipe(recipe)


def examine_recipe(recipe: Recipe) -> Iterator[Finding]:
    """Try what the recipe names: its source, its dataset's store, the journals' disk and its teachers."""
    yield from _tried("source", lambda: _source(recipe))
    yield from _tried("dataset", lambda: _dataset(recipe))
    yield from _tried("journal", lambda: _journal(recipe))
    if recipe.all_checks:
        yield from _tried("checks", lambda: asyncio.run(_checks(recipe)))
    yield from asyncio.run(_teachers(recipe))


def _tried(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield check()
    except StillhouseError as error:
        yield Finding(name=name, state="fail", message=inert(str(error)))


def _ray(address: str | None) -> Iterator[Finding]:
    here = f"Stillhouse {__version__}, Python {platform.python_version()}"
    yield Finding(name="here", state="ok", message=here)
    if address is not None and address.startswith(("http://", "https://")):
        yield from _tried("jobs", lambda: _jobs(address))
    else:
        yield from _tried("ray", lambda: _joined(address))


def _jobs(address: str) -> Finding:
    import ray

    from stillhouse.cluster.jobs.submit import Jobs

    jobs = Jobs(address)
    message = f"{jobs.address} accepts jobs, with Ray {jobs.ray_version}"
    if jobs.ray_version != ray.__version__:
        message += f" (here {ray.__version__}; `submit` works anyway, `run --address` needs the same version)"
    return Finding(name="jobs", state="ok", message=message)


def _joined(address: str | None) -> Finding:
    import ray

    from stillhouse.cluster.runtime import connected, cpus, free_cpus

    with connected(address):
        free, known = free_cpus(), cpus()
        how = f"joined at {address}" if address else "starts here"
        message = f"Ray {ray.__version__} {how}, {free:g} of {known} CPUs free"
    if free >= 1:
        return Finding(name="ray", state="ok", message=message)
    return Finding(
        name="ray", state="warn", message=message, fix="a worker needs a CPU: end another job, or add a node"
    )


def _source(recipe: Recipe) -> Finding:
    files = surveyed(recipe).files
    size = sum(file.size for file in files)
    return Finding(name="source", state="ok", message=f"{counted(len(files), 'file')}, {counted(size, 'byte')}")


def _dataset(recipe: Recipe) -> Finding:
    store = open_dataset(recipe)
    store.probe()
    message = f"{store.url} is writable, and refuses to overwrite a shard"
    dataset = DatasetReader(store)
    if binding_for(store, recipe, begun=lambda: why_begun(store, recipe.run, last=dataset.last_holder)) is None:
        return Finding(name="dataset", state="ok", message=f"{message}; there is no dataset yet")
    if dataset.is_running:
        return Finding(
            name="dataset",
            state="warn",
            message=f"{message}; a run is working on it now",
            fix="a second run waits until it ends",
        )
    return Finding(name="dataset", state="ok", message=f"{message}; it holds this recipe's dataset")


def _journal(recipe: Recipe) -> Finding:
    """Check this node's disk only: other nodes have their own."""
    folder = journals_folder(open_dataset(recipe), recipe.run)
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    fix = "free some space, or set run.journal_dir to a folder on another disk (for datasets on S3)"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"stillhouse")
            file.flush()
    except OSError as error:
        message = f"{folder} can't be written here ({error.strerror})"
        return Finding(name="journal", state="fail", message=message, fix=fix)
    free = shutil.disk_usage(there).free
    message = f"{folder}: {free / 2**30:,.1f} GiB free here"
    if free < LITTLE_DISK_BYTES:
        return Finding(name="journal", state="fail" if free < NO_DISK_BYTES else "warn", message=message, fix=fix)
    return Finding(name="journal", state="ok", message=message)


async def _checks(recipe: Recipe) -> Finding:
    await try_checks(recipe)
    names = ", ".join(check.name for check in recipe.all_checks)
    return Finding(name="checks", state="ok", message=f"{names}: ready to judge on this machine")


async def _teachers(recipe: Recipe) -> list[Finding]:
    transport = HttpTransport()
    try:
        return [finding async for finding in _each_teacher(recipe, transport)]
    finally:
        await transport.close()


async def _each_teacher(recipe: Recipe, transport: HttpTransport) -> AsyncIterator[Finding]:
    for teacher in recipe.teachers:
        name = f"teacher {teacher.name}"
        if teacher.api == "simulator":
            yield Finding(name=name, state="ok", message="the built-in teacher; it starts with the run")
            continue
        try:
            key = await _with_token(credentials_of(teacher), teacher)
        except (StillhouseError, TokenAway) as error:
            fix = "this is fine if only the nodes hold the key; then run `doctor` there"
            yield Finding(name=name, state="fail", message=inert(str(error)), fix=fix)
            continue
        for url in teacher.urls:
            for finding in await _asked(recipe, teacher, transport, url=url, key=key):
                yield finding.model_copy(update={"message": redacted(inert(finding.message), keys=key.secrets)})


async def _with_token(key: Credentials, teacher: Teacher) -> Credentials:
    """Sign with a token of Google Cloud, if the teacher needs one."""
    if key.google is None:
        return key
    token = await asyncio.to_thread(GoogleTokens(key.google, field=f"teachers.{teacher.name}").fetch)
    return replace(key, key=token.text, secrets=(*key.secrets, token.text))


async def _asked(
    recipe: Recipe, teacher: Teacher, transport: HttpTransport, *, url: str, key: Credentials
) -> list[Finding]:
    """Send one request as the run would, but for a short answer."""
    ask = recipe.ask.of(teacher)
    plain = teacher.model_copy(update={"ask": TeacherParameters(), "role": "answer"})
    interpreter = Interpreter(plain, _short(ask))
    name, at, ahead_s = f"teacher {teacher.name}", time.monotonic(), 0.0
    timeout_s, sent = min(TIMEOUT_S, teacher.timeout_s), "one request sent"
    try:
        reply = await transport.send(_hello(interpreter, url, key, ahead_s), timeout_s=timeout_s)
        if key.aws is not None and ServerClock().refused(reply.status, reply.headers, now=time.time()):
            sent = "sent two requests, the second signed for the teacher's clock, as a run does"
            ahead_s = server_ahead_s(reply.headers, now=time.time()) or 0.0
            reply = await transport.send(_hello(interpreter, url, key, ahead_s), timeout_s=timeout_s)
    except StillhouseError as error:
        return [Finding(name=name, state="fail", message=f"{url}: {error}")]
    except NotSent as error:
        fix = _UNTRUSTED if error.certificate else "is the address right?"
        return [Finding(name=name, state="fail", message=f"{url}: {error}", fix=fix)]
    except Lost as error:
        return [Finding(name=name, state="fail", message=f"{url}: {error} (sent one request)", fix=_FIXES[None])]
    took_s = time.monotonic() - at
    outcome = interpreter.read(reply._replace(latency_s=took_s))
    if ask.score is not None:
        outcome = aligned(outcome, _SCORED)
    if isinstance(outcome, Completion):
        message = f"{url} answers as {outcome.model or teacher.model_name} in {took_s:.1f} s ({sent})"
        found = Finding(name=name, state="ok", message=message)
        if lacking := _lacking(outcome, ask):
            found = Finding(name=name, state="warn", message=f"{message}, but {lacking[0]}", fix=lacking[1])
        elif wrong := _wrong_with(outcome, recipe, ask):
            message = f"{message}, but a run would not keep it: {wrong[0]}"
            found = Finding(name=name, state="warn", message=message, fix=wrong[1])
    else:
        message = f"{url}: {outcome.status or ''} {outcome.message} ({sent})"
        waits = isinstance(outcome, (Rate, Overload))
        fix = _NOTHING_THERE if outcome.status == 404 else _FIXES.get(type(outcome), _FIXES[None])
        if isinstance(outcome, Overload) and outcome.loading:
            fix = "the model is still loading: a run would wait until it is ready"
        found = Finding(name=name, state="warn" if waits else "fail", message=message, fix=fix)
    return [found, *_skew(reply, name=name)]


def _hello(interpreter: Interpreter, url: str, key: Credentials, ahead_s: float) -> HttpRequest:
    tools = () if interpreter.ask.tools is None else offered(interpreter.ask.tools)
    if interpreter.ask.score is not None:
        hello = Request((), scored=_SCORED)
        return interpreter.protocol.request(hello, base_url=url, key=key, now=time.time() + ahead_s)
    hello = Request(_HELLO, stream=interpreter.streaming.begins_with(url), tools=tools)
    return interpreter.protocol.request(hello, base_url=url, key=key, now=time.time() + ahead_s)


def _short(ask: Ask) -> Ask:
    """The request, changed to ask for a short answer; a thinking budget is added on top."""
    if ask.score is not None:
        return ask
    tokens = MOST_TOKENS + _thinking_budget(ask.extra)
    return ask.model_copy(update={"max_tokens": min(tokens, ask.max_tokens or tokens)})


def _thinking_budget(extra: Any) -> int:
    if not isinstance(extra, dict):
        return 0
    budget = extra.get("budget_tokens")
    return budget if isinstance(budget, int) else max(map(_thinking_budget, extra.values()), default=0)


def _lacking(answer: Completion, ask: Ask) -> tuple[str, str] | None:
    """(what the answer lacks, although a run would keep it; what to do)."""
    if ask.top_logprobs is None:
        return None
    rows = answer.scores.rows() if isinstance(answer.scores, TokenScores) else None
    if rows is None:
        return "it lacks the requested log-probabilities", "remove ask.top_logprobs, or use another server"
    if ask.token_ids and any(row["token_id"] is None for row in rows):
        fix = "remove ask.token_ids (tokens and top_tokens then have the tokens' bytes), or use another server"
        return "it lacks the requested token ids", fix
    return None


def _wrong_with(answer: Completion, recipe: Recipe, ask: Ask) -> tuple[str, str] | None:
    """(why a run would reject the answer, what to do). Truncation is ignored: we asked for a short answer."""
    prompt = Prompt("doctor", b"", _HELLO, (), scored=_SCORED if ask.score is not None else None)
    match rejected_by_rules(answer, prompt, calls=columns_of(SCHEMA_VERSION, recipe.identity()).calls):
        case "unknown_finish":
            word = answer.finish_reason_raw or ""
            return (
                f"it ends with finish_reason {word!r}",
                f"if that is a normal end: finish_reasons: {{'{word}': stop}}",
            )
        case "markup":
            return "tags or special tokens are left in its text", "set `thinking` to how reasoning is marked"
        case "empty":
            return "it has no text", "the server may need streaming (`stream: true`), or other parameters"
        case "unasked_tool_call":
            return "it calls tools", "offer them in `ask.tools`, so that records keep the calls"
        case "refused" | "content_filter" as reason:
            stopped = "it was refused" if reason == "refused" else "a content filter stopped it"
            return stopped, "is there a content filter in front of the model?"
        case _:
            return None


_HELLO = (("user", "Say hello."),)
_SCORED = Scored.of([1, 2], [3, 4])
"""Token ids that every vocabulary has."""

_BASE_URL = "base_url (with `api: openai-chat` it usually ends in /v1)"
_NOTHING_THERE = f"check {_BASE_URL}, and the model's name"
_UNTRUSTED = "use a certificate that this machine trusts, or name its CA in SSL_CERT_FILE"
_FIXES: dict[type | None, str] = {
    Auth: f"check api_key (or `aws`), {_BASE_URL}, and that the account may use the model",
    Money: "add funds to the account, or wait until its quota resets",
    BadRequest: "check model and `ask`: this teacher does not accept them",
    Rate: "a run would wait; declare `limits` to avoid this",
    Overload: "a run would wait; is the server up?",
    None: f"check {_BASE_URL}, and that the server is up",
}


def _skew(reply: Reply, *, name: str) -> list[Finding]:
    """Compare clocks: if this machine's is wrong, AWS rejects its signatures and records carry wrong times."""
    ahead_s = server_ahead_s(reply.headers, now=time.time())
    if ahead_s is None or abs(ahead_s) <= MOST_SKEW_S:
        return []
    message = f"this machine's clock is {abs(ahead_s):,.0f} s {'behind' if ahead_s > 0 else 'ahead of'} the teacher's"
    fix = "set the clock (NTP): S3 rejects requests that are 15 minutes off, and Bedrock those that are 5 minutes off"
    return [Finding(name=name, state="warn", message=message, fix=fix)]
