"""Each batch API is created, lost, found, looked at, read and cancelled over a real connection."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from stillhouse.gen.simulator.server import serve
from stillhouse.gen.teachers.aws_keys import AwsChain, AwsKeys
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.batches.base import (
    Access,
    Answered,
    Batch,
    BatchApi,
    BatchRefused,
    Intent,
    Job,
    Result,
    Steps,
    Unserved,
)
from stillhouse.gen.teachers.batches.calls import Lines, called
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import BadRequest, Rate
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Protocol, Request
from stillhouse.gen.teachers.transport import HttpRequest, Lost, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.batch import BatchSettings, BedrockBatch
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.simulator import SimulatorBatches, SimulatorSettings
from stillhouse.schemas.teacher import Teacher

T = TypeVar("T")
APIS = ("openai-chat", "mistral", "together", "openai-responses", "anthropic", "gemini", "bedrock")
KEY = "AKIDEXAMPLE:the-secret"
INTENT = "0123456789abcdef01234567"


class Account:
    """A teacher's batches at a simulator, and what drives them."""

    def __init__(self, api: str, url: str) -> None:
        root = url.removesuffix("/v1")
        profile = {"profile": "openai"} if api == "openai-chat" else {}
        path = "/together/v1" if api == "together" else "/v1"
        if api in ("mistral", "together"):
            api, profile = "openai-chat", {"profile": api}
        base = f"{root}{path}" if api.startswith("openai") else root
        aws = {"aws": {"region": "us-east-1"}} if api == "bedrock" else {"api_key": "env:KEY"}
        terms = {"license": "MIT", "training_use": "permitted", "url": "https://a.b", "seen_on": "2026-11-22"}
        given = {"name": "t", "api": api, "base_url": base, "model": "m", "terms": terms, **profile, **aws}
        self.teacher = Teacher.model_validate(given)
        place = BedrockBatch(role_arn="arn:aws:iam::123456789012:role/r", s3="s3://bucket/in", s3_endpoint=f"{root}/s3")
        self.api: BatchApi = batches_of(self.teacher, BatchSettings(bedrock=place))
        self.protocol: Protocol = protocol_of(self.teacher, Ask(max_tokens=300))
        signs = AwsChain(AwsKeys(*KEY.split(":"))) if api == "bedrock" else None
        self.access = Access(base, Credentials(None if signs else KEY, aws=signs), time.time())
        self.transport = HttpTransport()

    def job(self, count: int = 20, *, intent: str = INTENT) -> Job:
        """Sums to be asked, with the intent's id before each number."""
        requests = [
            self.protocol.request(
                Request((("user", f"What is {n} + 1?"),)), base_url=self.access.base_url, key=self.access.key, now=0
            )
            for n in range(count)
        ]
        lines = [self.api.line(f"{intent}-{n}", request) for n, request in enumerate(requests)]
        return Job(Intent(intent, count, self.access.now), lines)

    async def send(self, request: HttpRequest) -> Reply:
        """One request."""
        return await self.transport.send(request, timeout_s=10)

    async def call(self, steps: Steps[T]) -> T:
        """One call."""
        return await called(steps, self.send)

    async def create(self, job: Job) -> Batch:
        """A batch."""
        uploaded = await self.call(self.api.upload(job, self.access))
        return await self.call(self.api.create(job, uploaded, self.access))

    async def ended(self, batch: Batch) -> Batch:
        """The batch, once it has ended."""
        found = batch
        while found.state == "running":
            found = await self.call(self.api.look(batch.id, self.access))
        return found

    async def results(self, batch: Batch) -> list[Result]:
        """Everything that the batch returned."""
        found: list[Result] = []

        async def take(line: bytes) -> None:
            found.append(self.api.read(line))

        lines = Lines(take)
        for request in self.api.results(batch, self.access):
            reply = await self.transport.receive(request, stall_timeout_s=10, take=lines.feed)
            assert reply.status == 200
            await lines.end()
        return found


def with_account(api: str, test: Callable[[Account], Awaitable[None]], **settings: object) -> None:
    """Run a test against a simulator whose batches have these settings."""
    batches = SimulatorBatches.model_validate({"latency_s": 0.0, **settings})

    async def run() -> None:
        async with await serve(SimulatorSettings(api_key=KEY, batches=batches)) as server:
            account = Account(api, server.url)
            try:
                await test(account)
            finally:
                await account.transport.close()

    asyncio.run(run())


@pytest.mark.parametrize("api", APIS)
def test_every_request_is_answered_as_it_would_be_online(api: str) -> None:
    """Results come in another order, and each is a reply that the protocol reads."""

    async def test(account: Account) -> None:
        batch = await account.ended(await account.create(account.job()))
        assert (batch.state, batch.count) == ("ended", None if api == "together" else 20)
        results = await account.results(batch)
        keys = []
        for result in results:
            assert isinstance(result, Answered)
            keys.append(result.key)
            outcome = account.protocol.read(result.reply)
            assert isinstance(outcome, Completion)
            number = int(result.key.rpartition("-")[2])
            assert (outcome.text or "").endswith(f"#### {number + 1}")
            assert outcome.usage.output_tokens
        expected = [f"{INTENT}-{n}" for n in range(20)]
        assert keys != expected
        assert sorted(keys) == sorted(expected)

    with_account(api, test)


@pytest.mark.parametrize("api", APIS)
def test_a_batch_whose_creation_got_no_reply_is_found(api: str) -> None:
    """By its intent if the API takes names; otherwise by its size, until its results name the intent."""

    async def test(account: Account) -> None:
        job = account.job()
        uploaded = await account.call(account.api.upload(job, account.access))
        with pytest.raises(Lost):
            await account.call(account.api.create(job, uploaded, account.access))
        other = await account.create(account.job(7, intent="f" * 24))
        (found,) = await account.call(account.api.find(job.intent, account.access))
        assert found.id != other.id
        assert found.intent == (INTENT if account.api.names else None)
        (first, *_) = await account.results(await account.ended(found))
        assert isinstance(first, Answered)
        assert first.key.startswith(INTENT)

    with_account(api, test, lost_replies=1)


@pytest.mark.parametrize("api", APIS)
def test_a_lost_batch_is_not_listed_at_first(api: str) -> None:
    """A listing may be late, so one look is not proof that a batch does not exist."""

    async def test(account: Account) -> None:
        job = account.job(3)
        batch = await account.create(job)
        assert await account.call(account.api.find(job.intent, account.access)) == ()
        assert (await account.call(account.api.look(batch.id, account.access))).id == batch.id

    with_account(api, test, listed_after_s=60)


@pytest.mark.parametrize("api", APIS)
def test_unprocessed_requests_are_distinguished_from_answers(api: str) -> None:
    """Expired ones cost nothing; Gemini gives no results of an expired batch at all."""

    async def test(account: Account) -> None:
        batch = await account.ended(await account.create(account.job(60)))
        results = await account.results(batch)
        if api == "gemini":
            assert (batch.state, results) == ("expired", [])
            return
        expired = [each for each in results if each == Unserved(getattr(each, "key", ""), "expired")]
        answered = [each for each in results if isinstance(each, Answered)]
        assert len(expired) + len(answered) == 60
        assert min(len(expired), len(answered)) > 5

    with_account(api, test, expired=0.5)


@pytest.mark.parametrize("api", APIS)
def test_an_interrupted_download_can_be_repeated(api: str) -> None:
    """Whole lines before the break can be used."""

    async def test(account: Account) -> None:
        batch = await account.ended(await account.create(account.job()))
        found: list[Result] = []

        async def take(line: bytes) -> None:
            found.append(account.api.read(line))

        lines = Lines(take)
        (request,) = account.api.results(batch, account.access)
        with pytest.raises(Lost):
            await account.transport.receive(request, stall_timeout_s=10, take=lines.feed)
        assert 0 < len(found) < 20
        assert all(isinstance(each, Answered) for each in found)
        assert len(await account.results(batch)) == 20

    with_account(api, test, broken_downloads=1)


@pytest.mark.parametrize("api", APIS)
def test_a_cancelled_batch_ends(api: str) -> None:
    """Repeatedly: cancelling a batch that has ended is not an error."""

    async def test(account: Account) -> None:
        batch = await account.create(account.job(4))
        assert (await account.call(account.api.look(batch.id, account.access))).state == "running"
        await account.call(account.api.cancel(batch.id, account.access))
        found = await account.ended(batch)
        assert found.state in ("cancelled", "ended")
        assert [each for each in await account.results(found) if isinstance(each, Answered)] == []
        await account.call(account.api.cancel(batch.id, account.access))

    with_account(api, test, latency_s=3600.0)


@pytest.mark.parametrize("api", APIS)
def test_a_full_queue_a_refused_batch_and_a_forgotten_one_are_distinguished(api: str) -> None:
    """They mean a wait, our mistake, and a loss at the provider."""

    async def test(account: Account) -> None:
        forgotten = await account.create(account.job(1, intent="a" * 24))
        assert (await account.call(account.api.look(forgotten.id, account.access))).state == "lost"
        refused = await account.ended(await account.create(account.job(2, intent="b" * 24)))
        if api == "anthropic":
            assert (refused.state, await account.results(refused)) == ("ended", [])
        else:
            assert (refused.state, type(refused.trouble)) == ("failed", BadRequest)
        with pytest.raises(BatchRefused) as full:
            await account.create(account.job(5))
        assert isinstance(full.value.trouble, Rate)

    with_account(api, test, lost=1, failed=2, max_open_requests=4)


def test_bedrock_creates_one_job_per_intent() -> None:
    """The intent is the token of its calls."""

    async def test(account: Account) -> None:
        first, second = [await account.create(account.job()) for _ in range(2)]
        assert first.id == second.id

    with_account("bedrock", test)
