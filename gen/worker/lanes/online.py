"""The online lane: one request per sample, as many at a time as the account's lease allows.

A sample that has to wait leaves the queue and holds no slot; a teacher that serves nothing blocks no other lane.
"""

import asyncio
import functools
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.errors import StillhouseError, StoreAway, TeacherPaused, UsageError
from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.limits.shares import Cost
from stillhouse.gen.limits.stated_wait import Asked
from stillhouse.gen.teachers.account import UNUSED
from stillhouse.gen.teachers.billing import bill
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.distillation import ADVICE, MAX_SHARE, Watch
from stillhouse.gen.teachers.endpoints import Endpoint
from stillhouse.gen.teachers.expense import NOTHING
from stillhouse.gen.teachers.given_scores import GivenScores
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    NoConnection,
    Outcome,
    Overload,
    Ramp,
    Rate,
    ServerError,
    Trouble,
    kind_of,
)
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.refused_parameters import refused_parameter
from stillhouse.gen.teachers.retry import Again, Blame, Decision, MoveOn, Pause
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.lanes.base import Attempts, DocketT, Gate, Listener, Router
from stillhouse.gen.worker.replies import Journalled, Received
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt

LACKING = 3
"""Answers without requested log probabilities before this is reported."""

LARGE_REPLY_BYTES = 2**18
"""A reply of this size or more is journalled and read in a thread, for it would hold up the event loop."""

STARTING_PAUSE_S = 1.0
"""Pause of the account after a 429 that does not say how long."""

_T = TypeVar("_T")

_Work: TypeAlias = tuple[DocketT, int, bool, bool]
"""(chunk, ordinal, whether it was asked before, whether it goes before all others)."""


class _Sample(NamedTuple):
    """What a slot asks."""

    ordinal: int
    again: bool
    """True if it was asked before."""
    prompt: Prompt
    key: Hashable
    """The same for all samples of the prompt."""
    chars: int
    """The prompt's size."""


class _Share(NamedTuple):
    """A request's share of the limits."""

    cost: Cost
    granted_at: float


class _Sent(NamedTuple):
    """An attempt that has ended."""

    outcome: Outcome
    decision: Decision
    endpoint: Endpoint
    at: float
    """Monotonic."""


class _WorkQueue(asyncio.Queue[_Work[DocketT]]):
    """First in, first out, but most samples asked before come first: their chunks wait for them."""

    def _put(self, item: _Work[DocketT]) -> None:
        queue: Any = self._queue  # type: ignore[attr-defined]
        queue.appendleft(item) if item[3] else queue.append(item)


class OnlineLane(Generic[DocketT]):
    """Asks one teacher's samples over its endpoints."""

    def __init__(
        self,
        client: TeacherClient,
        *,
        tasks: Tasks,
        listener: Listener[DocketT],
        gate: Gate,
        counters: Counters,
        clock: Clock,
        router: Router[DocketT] | None = None,
        goes_first: bool = False,
    ) -> None:
        """Args:
        client: the teacher's.
        tasks: the worker's.
        listener: hears of each attempt's end.
        gate: that of all its lanes.
        counters: the worker's.
        clock: the worker's.
        router: decides who asks a sample, if not the teacher that it is assigned to.
        goes_first: its requests go before those of other lanes of the account.
        """
        self.account = client.account
        self.largest_reply_bytes = 0
        self._client = client
        self._tasks = tasks
        self._listener = listener
        self._gate = gate
        self._counters = counters
        self._clock = clock
        self._router = router
        self._goes_first = goes_first
        self._place = client.interpreter.place or 0
        self._queue: _WorkQueue[DocketT] = _WorkQueue()
        self._slots: list[asyncio.Task[None]] = []
        self._refused_parameters: set[str] = set()
        self._distillation = Watch()
        self._lacking = 0
        self._has_scored = False
        """Answers without the requested log probabilities."""

    @property
    def waiting(self) -> int:
        """Samples that only wait for slots."""
        return self._queue.qsize()

    @property
    def runs_dry(self) -> bool:
        """True if it has fewer samples waiting than slots."""
        return self._queue.qsize() < max(1, self.account.slots)

    @property
    def slots(self) -> int:
        """Number of samples it asks at a time, as far as the limits allow."""
        return len(self._slots)

    @property
    def wanted(self) -> int:
        """Slots that the lease allows beyond these; too many slots only wait."""
        return self.account.slots - len(self._slots)

    def take(self, held: DocketT, ordinals: Iterable[int]) -> None:
        """Queue these samples of the chunk."""
        for ordinal in ordinals:
            self._put(held, ordinal, again=False)
        self.account.want_share()

    def widen(self, slots: int) -> None:
        """Open so many slots more."""
        self._slots += [self._tasks.spawn(self._slot) for _ in range(slots)]

    def cancel(self) -> None:
        """End the slots."""
        for slot in self._slots:
            slot.cancel()

    async def _slot(self) -> None:
        while True:
            held, ordinal, again, _ = await self._queue.get()
            await self._gate.passed()
            if self.runs_dry or self._gate.purse.empty.is_set():
                self._listener.wants_more()
            if self._gate.stopping or held.abandoned:
                continue
            try:
                await self._ask(held, ordinal, again=again)
            except StillhouseError as error:
                self._tasks.fail(error)

    def _leaves(self, held: DocketT, ordinal: int) -> bool:
        if not held.attempts.is_wanted(ordinal):
            return True
        return self._router is not None and self._router.leaves(held, ordinal, place=self._place)

    async def _ask(self, held: DocketT, ordinal: int, *, again: bool) -> None:
        """Ask the sample once, when there is money, and a share of the limits, for it."""
        if self._leaves(held, ordinal):
            return
        prompt, key, client, purse = (
            held.attempts.prompt(ordinal),
            held.prompt_key(ordinal),
            self._client,
            self._gate.purse,
        )
        if (wait_s := client.wait_s(key)) > 0.0:  # another sample of the prompt was told to wait
            self._ask_again(held, ordinal, wait_s, again=again, first=False)
            return
        chars = client.interpreter.chars_of(prompt)
        worst = client.interpreter.worst_case(prompt) if purse.is_limited else NOTHING
        if not await purse.reserve(worst):
            return
        cost = client.estimator.estimate(chars, beside=client.account.in_flight)
        waits_from = self._clock.monotonic()
        try:
            share = _Share(cost, await self._reserved(cost))
        except BaseException:
            purse.give_back(worst)
            raise
        self._counters.of(client.teacher.name).lease_wait_s += self._clock.monotonic() - waits_from
        sample = _Sample(ordinal, again, prompt, key, chars)
        sent = await self._send(held, sample, share)  # an error leaves the money in flight
        if sent is None:
            purse.give_back(worst)
            return
        if purse.is_limited:
            purse.settle(worst, bill(client.interpreter, prompt, sent.outcome).expense)
        if not held.abandoned:
            self._follow(held, ordinal, sent.endpoint, sent.decision, sent_at=sent.at)

    async def _send(self, held: DocketT, sample: _Sample, share: _Share) -> _Sent | None:
        """Send it, and count what comes; None: it was not sent, and waits again."""
        ordinal, again, prompt, key, chars = sample
        client = self._client
        tally = self._counters.of(client.teacher.name)
        used: Cost | None = Cost(0, 0)
        refused = False
        tally.in_flight += 1
        held.began()
        try:
            if self._leaves(held, ordinal):  # while it waited
                return None
            images = await held.images(prompt) if prompt.images else ()
            if (endpoint := self._picked(held, ordinal, again=again)) is None:
                return None
            tally.requests += 1
            tally.retries += again
            if self._router is not None:
                self._router.asked(self._place)
            sent_at = self._clock.monotonic()
            served: bool | None = False
            try:
                outcome, decision, blame = await self._attempt(held, sample, endpoint, images)
                served = _served(outcome, endpoint)
                self._listener.heard(held, ordinal)
            finally:
                client.done(endpoint, served=served)
                if served is None and endpoint.is_open and not endpoint.answered:
                    self._counters.note(
                        f"teacher {client.teacher.name}: endpoint {endpoint.host} has answered nothing yet, while "
                        f"others do; its samples go to them. It said: {getattr(outcome, 'message', '')}"
                    )
            if self._router is not None:
                self._router.ended(held, ordinal, outcome, place=self._place, sent_at=sent_at)
            latency_s = self._clock.monotonic() - sent_at
            spared = blame is not None and (blame.on == "request" or blame.spares_account)
            refused = isinstance(outcome, (Rate, Ramp)) and not spared
            if _cut_on_the_way(outcome) and client.timed_out(endpoint):
                self._counters.streamed.append((client.teacher.name, endpoint.host))
                self._counters.note(
                    f"teacher {client.teacher.name}: an answer timed out at {endpoint.host}; its answers are streamed "
                    "from now on, because a silent connection may be cut (`stream: false` turns that off)"
                )
            asked = Asked(key, (client.teacher.name, endpoint.host), sent_at)
            used = self._heard(endpoint, outcome, chars, asked, latency_s=latency_s, spared=spared)
        finally:
            tally.in_flight -= 1
            if refused:
                client.account.settle_refused(share.cost, share.granted_at)
            else:
                client.account.settle(share.cost, used, share.granted_at)
            held.ended()
        return _Sent(outcome, decision, endpoint, sent_at)

    def _picked(self, held: DocketT, ordinal: int, *, again: bool) -> Endpoint | None:
        """The endpoint to ask now; if there is none, the sample is back in the queue."""
        client = self._client
        if not (self._gate.stopping or held.abandoned or client.account.is_paused):
            avoid = held.attempts.refused_by(ordinal)
            if (endpoint := client.endpoint(again=again, avoid=avoid)) is not None:
                return endpoint
            if self._router is not None:
                self._router.not_sent(held, ordinal)
        self._put(held, ordinal, again=again)
        return None

    async def _reserved(self, cost: Cost) -> float:
        """Wait for the fence and then for a share of the limits; when that was granted.

        A reservation that outlives the fence is given up; otherwise all slots would send at once when it opens.
        """
        client, fence = self._client, self._gate.fence
        while True:
            if not fence.is_open:
                await fence.open()
            await client.usable()
            granted_at = await client.account.reserve(cost, first=self._goes_first)
            if fence.is_open:
                return granted_at
            client.account.settle(cost, UNUSED, granted_at)

    async def _attempt(
        self, held: DocketT, sample: _Sample, endpoint: Endpoint, images: tuple[SentImage, ...]
    ) -> tuple[Outcome, Decision, Blame | None]:
        client, attempts = self._client, held.attempts
        ordinal, _, prompt, key, _ = sample
        ask = Request(
            prompt.messages, held.number(ordinal), images=images, tools=prompt.tools or (), scored=prompt.scored
        )
        at, start = self._clock.time(), self._clock.monotonic()
        request = client.request(ask, endpoint, now=at)
        place = client.interpreter.place
        attempts.sent(ordinal, at=at, endpoint=endpoint.host, place=place)
        outcome: NoConnection | Ambiguous
        try:
            reply = await client.send(request)
        except NotSent as error:
            if error.certificate:
                raise UsageError(f"teachers.{client.teacher.name}: TLS to {endpoint.host} failed: {error}") from None
            outcome = NoConnection(str(error))
            return (
                outcome,
                attempts.unanswered(ordinal, Kind.NOT_SENT, outcome, at=at, place=place, endpoint=endpoint.host),
                None,
            )
        except Lost as error:
            outcome = Ambiguous(str(error), deadline=error.deadline)
            latency_s = self._clock.monotonic() - start
            cut = None if error.cut is None else error.cut._replace(latency_s=latency_s)
            decision = attempts.unanswered(
                ordinal, Kind.LOST, outcome, at=at, place=place, endpoint=endpoint.host, cut=cut
            )
            return outcome, decision, None
        latency_s = self._clock.monotonic() - start
        self.largest_reply_bytes = max(self.largest_reply_bytes, len(reply.body))

        def journal() -> Journalled:
            return attempts.journalled(ordinal, reply, at=at, latency_s=latency_s, endpoint=endpoint.host, place=place)

        if len(reply.body) < LARGE_REPLY_BYTES:
            try:
                received = attempts.read(journal())
            except StoreAway as error:
                received = attempts.read(await self._kept_later(journal, error))
        else:
            received = await self._read_beside(attempts, journal)
        blame = client.weigh(key, received.outcome, endpoint=endpoint, sent_at=start)
        try:
            decision = attempts.answered(received, blame=blame)
        except StoreAway as error:
            decision = await self._kept_later(functools.partial(attempts.answered, received, blame=blame), error)
        if reply.ceilings and not (blame is not None and (blame.on == "request" or blame.spares_account)):
            client.told(reply)
        return received.outcome, decision, blame

    async def _read_beside(self, attempts: Attempts, journal: Callable[[], Journalled]) -> Received:
        """Journal and read a large reply in threads."""
        try:
            journalled = await asyncio.to_thread(journal)
        except StoreAway as error:
            journalled = await self._kept_later(journal, error)
        async with self._gate.reading:
            return await asyncio.to_thread(attempts.read, journalled)

    async def _kept_later(self, keep: Callable[[], _T], error: StoreAway) -> _T:
        """Keep what was paid for though the disk is full: there may be room while the worker stops."""
        while True:
            self._tasks.fail(error)
            await asyncio.sleep(1.0)
            try:
                return keep()
            except StoreAway as again:
                error = again

    def _heard(
        self,
        endpoint: Endpoint,
        outcome: Outcome,
        chars: int,
        asked: Asked,
        *,
        latency_s: float,
        spared: bool,
    ) -> Cost | None:
        """Count an outcome and report it to the account; returns what the request used, None if unknown.

        `spared`: the request alone is to blame, and slows nobody else.
        """
        client, counters, account = self._client, self._counters, self._client.account
        if isinstance(outcome, Completion):
            tally = counters.of(client.teacher.name)
            tally.answered(outcome.usage, usd=client.interpreter.cost_usd(outcome), latency_s=latency_s)
            if client.interpreter.wants_logprobs and outcome.scores is None:
                self._lacks_logprobs()
            if not self._has_scored and isinstance(outcome.scores, GivenScores):
                self._has_scored = True
                self._note_top(outcome.scores)
            if self._distillation.alarms(outcome):
                counters.note(
                    f"teacher {client.teacher.name}: refuses more than {MAX_SHARE:.0%} of the prompts as distillation "
                    f"of its model (rejected/ has them, by refusal_category): {ADVICE}"
                )
            account.served(latency_s=latency_s, tokens=outcome.usage.output_tokens or 0, asked=asked)
            return client.learn(chars, outcome)
        counters.troubled(client.teacher.name, kind_of(outcome), _words_of(outcome))
        if isinstance(outcome, BadRequest):
            self._note_parameter(outcome)
        elif isinstance(outcome, Auth) and (words := client.clock_note) is not None:
            counters.note(f"teacher {client.teacher.name}: {words}")
        if spared:
            return Cost(0, 0)
        if isinstance(outcome, (Rate, Ramp)):
            wait_s = STARTING_PAUSE_S if outcome.retry_after_s is None else outcome.retry_after_s
            account.refused(pause_s=wait_s, ramped=isinstance(outcome, Ramp), asked=asked)
            return Cost(0, 0)
        if isinstance(outcome, NoConnection):
            if endpoint.answered and not endpoint.is_open:  # it is there, and takes no more connections
                account.refused()
            return Cost(0, 0)
        if not isinstance(outcome, (Overload, Ambiguous)):
            account.served(latency_s=latency_s, tokens=0)
        elif not endpoint.is_open and not _cut_on_the_way(
            outcome
        ):  # probes of a dead endpoint say nothing about the account's capacity
            account.refused()
        return Cost(0, 0) if isinstance(outcome, Overload) else None

    def _note_parameter(self, refusal: BadRequest) -> None:
        """Report a parameter that the teacher refuses, at its first refusal: the whole run may fail on it."""
        client = self._client
        name = refused_parameter(refusal, client.interpreter.ask)
        if name is not None and name not in self._refused_parameters:
            self._refused_parameters.add(name)
            self._counters.note(
                f"teacher {client.teacher.name} refuses the parameter {name} ({refusal.message}); to ask it without: "
                f"`ask: {{{name}: null}}` in this teacher's part of the recipe (a dataset that holds answers keeps its "
                "`ask`: then use another dataset.path)"
            )

    def _note_top(self, scores: GivenScores) -> None:
        """Report how many alternatives its scores come with, with the first of them."""
        score, name = self._client.interpreter.ask.score, self._client.teacher.name
        if score is not None and scores.least_top < score.top:
            self._counters.note(
                f"teacher {name}: its scores come with {scores.least_top} alternatives per token, fewer than "
                f"the {score.top} asked for (ask.score.top)"
            )

    def _lacks_logprobs(self) -> None:
        """Report once that requested log probabilities are missing."""
        self._lacking += 1
        if self._lacking == LACKING:
            self._counters.note(
                f"teacher {self._client.teacher.name}: log probabilities were requested (ask.top_logprobs), but "
                f"{LACKING} answers came without any: their column is null. Does this server support them for this "
                "model?"
            )

    def _follow(self, held: DocketT, ordinal: int, endpoint: Endpoint, decision: Decision, *, sent_at: float) -> None:
        client = self._client
        match decision:
            case Again(after_s, last):
                self._ask_again(held, ordinal, after_s, first=not last)
            case MoveOn():
                self._put(held, ordinal, again=True)
            case Pause(reason, auth=False) if self._router is not None:
                self._router.out_of_money(self._place, reason)
                self._ask_again(held, ordinal, 0.0, first=True)
            case Pause(reason, auth):
                if not (auth and client.reload_key(sent_at=sent_at)):
                    where = f" at {endpoint.host}" if len(client.teacher.urls) > 1 else ""
                    raise TeacherPaused(
                        f"teacher {client.teacher.name}{where} {reason}; then run the same command again"
                    )
                self._ask_again(held, ordinal, 0.0, first=True)
            case _:
                held.advance()

    def _ask_again(self, held: DocketT, ordinal: int, after_s: float, *, first: bool, again: bool = True) -> None:
        if after_s <= 0:
            self._put(held, ordinal, again=again, first=first)
            return
        put = functools.partial(self._put, held, ordinal, again=again, first=first)
        asyncio.get_running_loop().call_later(after_s, put)

    def _put(self, held: DocketT, ordinal: int, *, again: bool, first: bool | None = None) -> None:
        self._queue.put_nowait((held, ordinal, again, again if first is None else first))


def _words_of(trouble: Trouble) -> str:
    """For people: its status, unless the message names one, and its message."""
    if trouble.status is None or "HTTP" in trouble.message:
        return trouble.message
    return f"HTTP {trouble.status}: {trouble.message}"


def _served(outcome: Outcome, endpoint: Endpoint) -> bool | None:
    """What an outcome says about its endpoint; see `Endpoints.done`."""
    if isinstance(outcome, Malformed) or (isinstance(outcome, BadRequest) and not endpoint.answered):
        return None  # another model, or no API at all, may be there
    failed = isinstance(outcome, (NoConnection, Overload, Ambiguous, ServerError))
    return not failed or _cut_on_the_way(outcome)


def _cut_on_the_way(outcome: Outcome) -> bool:
    """True if a gateway or the recipe's `timeout_s` ended the wait, which only reflects this answer's length."""
    return isinstance(outcome, Ambiguous) and (outcome.deadline or (outcome.status or 0) >= 400)
