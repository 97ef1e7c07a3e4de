"""A provider's batches on the virtual wire: created, listed late, looked at and collected by anyone who asks.

A request's outcome is drawn when its batch is created; it does not exist before that. No request may be in a
second batch while the first one can still answer it.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from stillhouse.gen.teachers.batches.files import INTENT_FIELD
from stillhouse.gen.teachers.transport import HttpRequest, Lost, Reply, Take

from .history import SETTLING, Broken, History, Request, Sample
from .loop import VirtualLoop
from .processes import Process, check_alive

FATES = {"answer": 20.0, "length": 1.0, "refused": 1.0, "failed": 1.0, "bad": 0.5, "expired": 3.0, "missing": 1.0}
_WITHOUT_RESULT = ("missing", "unreached")
"""`unreached`: in an expired batch, what has no result was not reached, and costs nothing."""
LATENCIES_S = (0.2, 5.0, 40.0, 300.0)
HIDDEN_S = (0.0, 0.0, 30.0, 600.0)
"""How long a batch is missing from listings: less than the time after which it counts as never created."""
_STRANGER = b'{"custom_id":"0123456789abcdef01234567-0","response":{"body":{}}}'
_CALL = re.compile(r"http://([^/]+)/v1/(files|batches)(?:/([^/?]+))?(?:/content)?(?:\?.*)?")


@dataclass(eq=False)
class _Batch:
    name: str
    intent: str
    rows: Sequence[tuple[str, Request]]
    """(the request's id in the batch, its outcome)."""
    created_at: float
    ends_at: float
    listed_at: float
    is_forgotten: bool
    """True if the provider no longer knows it when it is first looked at."""
    is_known: bool = False
    """True once a reply has said that it ended, or that it does not exist."""


class Provider:
    """The batch API of all teachers, in OpenAI's words."""

    def __init__(
        self,
        rng: random.Random,
        loop: VirtualLoop,
        history: History,
        *,
        troubles: float,
        judge: str,
        reply: Callable[[Request], Reply],
        billed: Callable[[Request], None],
    ) -> None:
        """Args:
        rng: the world's.
        loop: the world's.
        history: is told of each request in a batch.
        troubles: the share of calls and batches with which something goes wrong.
        judge: its host.
        reply: what the online API would have answered.
        billed: counts what a request costs.
        """
        self._rng = rng
        self._loop = loop
        self._history = history
        self._troubles = troubles
        self._judge = judge
        self._reply = reply
        self._billed = billed
        self._files: dict[str, Sequence[tuple[str, Sample]]] = {}
        self._all: dict[str, _Batch] = {}
        self._of: dict[int, _Batch] = {}
        """By the serial of each request in them."""
        self.accept = 0
        """See `Teacher`."""

    @property
    def created(self) -> int:
        """How many batches were created."""
        return len(self._all)

    @staticmethod
    def takes(request: HttpRequest) -> bool:
        """True for a call of the batch API."""
        return _CALL.fullmatch(request.url) is not None

    def serve(self, request: HttpRequest, *, left_at: float) -> Reply:
        """The reply to a call that left a worker at this time.

        Raises:
            Lost: what was asked for may have been done.
        """
        found = _CALL.fullmatch(request.url)
        assert found is not None
        teacher, kind, name = found.groups()
        if self._comes():
            return Reply(self._rng.choice((429, 500, 503)), {}, b'{"error":{"message":"not now"}}')
        match request.method, kind, name:
            case "POST", "files", None:
                name = f"file-{len(self._files)}"
                self._files[name] = list(_lines(request.body))
                return _said({"id": name})
            case "POST", "batches", None:
                batch = self._create(teacher, orjson.loads(request.body), left_at=left_at)
                if self._comes():
                    raise Lost("reset")
                return _said(self._document(batch))
            case "GET", "batches", None:
                listed = [each for each in self._all.values() if each.listed_at <= self._loop.time()]
                known = [self._document(each) for each in reversed(listed) if not (each.is_forgotten and each.is_known)]
                return _said({"data": known, "has_more": False})
            case "GET", "batches", str():
                batch = self._all[name]
                batch.is_known |= batch.is_forgotten
                return Reply(404, {}, b"{}") if batch.is_forgotten else _said(self._document(batch))
        raise Broken(f"not a call of the batch API: {request.method} {request.url}")

    async def results(self, request: HttpRequest, take: Take) -> Reply:
        """Pass on the results of a batch, in any order.

        Raises:
            Lost: it broke off.
        """
        found = _CALL.fullmatch(request.url)
        assert found is not None
        batch = self._all[found[3].removeprefix("out-")]
        lines = [_line(key, each, self._reply) for key, each in batch.rows if each.fate not in _WITHOUT_RESULT]
        lines += [*lines[:1], b"not a result", _STRANGER]
        self._rng.shuffle(lines)
        body = b"\n".join(lines) + b"\n"
        if self._comes():
            await take(body[: self._rng.randrange(len(body))])
            raise Lost("cut")
        await take(body)
        return Reply(200, {}, b"")

    def _comes(self) -> bool:
        return self._rng.random() < self._troubles

    def _create(self, teacher: str, payload: dict[str, object], *, left_at: float) -> _Batch:
        process = check_alive()
        assert process is not None
        rng, now = self._rng, self._loop.time()
        metadata = payload["metadata"]
        assert isinstance(metadata, dict)
        intent = metadata[INTENT_FIELD]
        if again := [each.name for each in self._all.values() if each.intent == intent]:
            raise Broken(f"{process.name} creates a second batch for intent {intent}, beside {again}")
        forgotten = self._comes()
        rows = []
        series: Counter[str] = Counter()
        asked = self._files[str(payload["input_file_id"])]
        fates = ["missing" if forgotten else rng.choices(list(FATES), list(FATES.values()))[0] for _ in asked]
        is_late = "expired" in fates
        for (key, sample), fate in zip(asked, fates, strict=True):
            self.check_free(process, sample)
            for earlier in self._history.by_sample[sample]:
                if earlier.fate in SETTLING and not earlier.copies:
                    raise Broken(
                        f"{process.name} asks {sample} again, and r{earlier.serial} is an answer at the provider"
                    )
            if teacher == self._judge and fate in ("length", "refused"):  # words of a judge, and not of an answer
                fate = "answer"
            elif fate == "missing" and is_late:
                fate = "unreached"
            sent = self._history.sent(process, sample, fate, teacher=teacher, left_at=left_at)
            self._billed(sent)
            rows.append((key, sent))
            if teacher == self._judge:  # what it was asked is no row's attempt
                continue
            self._history.attempts[sample] += 1
            series[sample[0]] += 1
            if self.accept and series[sample[0]] > self.accept:
                raise Broken(f"{process.name} asks {series[sample[0]]} samples of {sample[0]} in one batch")
        ends_at = now + rng.choice(LATENCIES_S) * rng.uniform(0.5, 1.5)
        name = f"batch_{len(self._all)}"
        batch = _Batch(name, intent, rows, now, ends_at, now + rng.choice(HIDDEN_S), forgotten)
        self._all[name] = batch
        self._of |= {sent.serial: batch for _, sent in rows}
        return batch

    def check_free(self, process: Process, sample: Sample) -> None:
        """No batch can still answer the sample, as far as anybody knows.

        Raises:
            Broken: one can.
        """
        batches = [self._of.get(earlier.serial) for earlier in self._history.by_sample[sample]]
        if any(each is not None and not each.is_known for each in batches):
            raise Broken(f"{process.name} asks {sample} again, and nobody knows the end of its batch")

    def _document(self, batch: _Batch) -> dict[str, object]:
        document: dict[str, object] = {"id": batch.name, "metadata": {INTENT_FIELD: batch.intent}}
        document |= {"created_at": int(1.7e9 + batch.created_at), "request_counts": {"total": len(batch.rows)}}
        if self._loop.time() < batch.ends_at:
            return document | {"status": "in_progress"}
        batch.is_known |= not batch.is_forgotten
        is_late = any(each.fate == "expired" for _, each in batch.rows)
        return document | {"status": "expired" if is_late else "completed", "output_file_id": f"out-{batch.name}"}


def _lines(body: bytes) -> Iterator[tuple[str, Sample]]:
    """(id, sample) of each request in an upload."""
    for line in body.splitlines():
        if line.startswith(b'{"custom_id"'):
            row = orjson.loads(line)
            yield row["custom_id"], (row["body"]["messages"][-1]["content"], row["body"]["seed"])


def _line(key: str, request: Request, reply: Callable[[Request], Reply]) -> bytes:
    if request.fate == "expired":
        return orjson.dumps({"custom_id": key, "error": {"code": "batch_expired", "message": "too late"}})
    said = reply(request)
    response = {"status_code": said.status, "body": orjson.Fragment(said.body)}
    return orjson.dumps({"custom_id": key, "response": response, "error": None})


def _said(document: dict[str, object]) -> Reply:
    return Reply(200, {}, orjson.dumps(document))
