"""Batches as every provider has them: requests that are answered some time later, whether or not anyone asks.

An API is one module, which translates them to its wire format; all state is here. Results are made once, when a batch
is first looked at after its end.
"""

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from stillhouse.gen.simulator.dialects.base import Dialect, Error
from stillhouse.gen.simulator.draws import draw, unit
from stillhouse.gen.simulator.wire import Request
from stillhouse.schemas.simulator import Fault, ResetFault, SimulatorBatches, SimulatorSettings, TruncateFault

_ROW_STREAM = 101
_ORDER_STREAM = 102
_JSON = "application/json"


class Row(NamedTuple):
    """One request of a batch."""

    key: str
    request: Request


Fate: TypeAlias = Literal["answered", "expired", "cancelled"]


class Done(NamedTuple):
    """The result of a request."""

    key: str
    fate: Fate
    status: int = 0
    """The status of the online API; 0: it was not served."""
    body: bytes = b""

    @property
    def is_error(self) -> bool:
        """True if it has no answer."""
        return self.fate != "answered" or self.status >= 400


class Page(NamedTuple):
    """A reply to a call."""

    body: bytes
    status: int = 200
    content_type: str = _JSON
    headers: Mapping[str, str] = {}
    fault: Fault | None = None


State: TypeAlias = Literal["running", "cancelling", "ended", "expired", "cancelled", "failed"]


@dataclass(slots=True)
class Batch:
    """A batch, from its creation until the simulator ends."""

    number: int
    api: str
    rows: Sequence[Row]
    fields: Mapping[str, Any]
    """What the batch's creator sent with it, for the API's replies."""
    created_s: float
    """When the batch was created, by the simulator's monotonic clock."""
    created: float
    """When the batch was created, in UTC seconds since 1970."""
    ends_s: float
    fails: bool
    cancelled_s: float | None = None
    done: list[Done] | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """Number of requests in the batch."""
        return len(self.rows)

    def of(self, fate: Fate, *, failed: bool = False) -> int:
        """Number of requests with this result; `failed`: answered requests that were refused."""
        return sum(each.fate == fate and (each.status >= 400) == failed for each in self.done or ())

    @property
    def state(self) -> State:
        """The batch's state at the last look."""
        if self.done is None:
            return "running" if self.cancelled_s is None else "cancelling"
        if self.fails:
            return "failed"
        if self.cancelled_s is not None:
            return "cancelled"
        return "expired" if self.of("expired") else "ended"


class TooMany(Exception):
    """The account has too many requests in batches."""


class Batches:
    """All batches of all APIs, and the files that they are made from."""

    def __init__(
        self,
        settings: SimulatorSettings,
        *,
        answer: Callable[[Row, str], Error],
        clock: Callable[[], float],
        epoch_s: float,
    ) -> None:
        """`answer`: serves one request, logged under a batch's id; `clock`: monotonic, `epoch_s` before UTC's."""
        self.settings: SimulatorBatches = settings.batches
        self.files: dict[str, bytes] = {}
        self._seed = settings.seed
        self._answer = answer
        self._clock = clock
        self._epoch_s = epoch_s
        self._all: dict[tuple[str, int], Batch] = {}
        self._made = 0
        self._downloads = 0

    @property
    def now(self) -> float:
        """UTC seconds since 1970."""
        return self._epoch_s + self._clock()

    def create(self, api: str, rows: Sequence[Row], **fields: Any) -> Batch:
        """Create a batch. Raises TooMany."""
        most = self.settings.max_open_requests
        waiting = sum(each.count for each in self._all.values() if each.done is None and self._clock() < each.ends_s)
        if most is not None and waiting + len(rows) > most:
            raise TooMany
        number, now_s = self._made, self._clock()
        self._made += 1
        fails = number < self.settings.failed
        batch = Batch(number, api, rows, fields, now_s, self.now, now_s + self.settings.latency_s, fails)
        if number >= self.settings.lost:
            self._all[api, number] = batch
        return batch

    def created(self, batch: Batch, page: Page) -> Page:
        """The reply to a creation, or its loss."""
        return page._replace(fault=ResetFault()) if batch.number < self.settings.lost_replies else page

    def downloaded(self, batch: Batch, page: Page) -> Page:
        """The reply to a download, or half of it, or a reply saying that nothing is left."""
        if batch.number < self.settings.deleted:
            return Page(b'{"error":{"message":"The results are deleted."}}', 404)
        self._downloads += 1
        return page._replace(fault=TruncateFault()) if self._downloads <= self.settings.broken_downloads else page

    def find(self, api: str, number: str) -> Batch | None:
        """The batch with this number as it is now; None if there is none."""
        found = self._all.get((api, int(number))) if number.isdecimal() and len(number) < 19 else None
        if found is not None:
            self._settle(found)
        return found

    def listed(self, api: str) -> list[Batch]:
        """The batches that a listing shows, newest first."""
        late = self._clock() - self.settings.listed_after_s
        found = [each for each in self.known(api) if each.created_s <= late]
        for each in found:
            self._settle(each)
        return found[::-1]

    def known(self, api: str) -> list[Batch]:
        """All batches, whether listed yet or not."""
        return [each for each in self._all.values() if each.api == api]

    def cancel(self, batch: Batch) -> None:
        """End it; what is finished is kept."""
        if batch.done is None:
            batch.cancelled_s = self._clock()
            batch.ends_s = min(batch.ends_s, batch.cancelled_s)
            self._settle(batch)

    def close(self) -> None:
        """Serve, and log, requests that nobody has looked at: a provider bills those too."""
        for batch in self._all.values():
            batch.ends_s = min(batch.ends_s, self._clock())
            self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        if batch.done is not None or self._clock() < batch.ends_s:
            return
        if batch.fails:
            batch.done = []
            return
        served = batch.count
        if batch.cancelled_s is not None and self.settings.latency_s:
            served = int(served * (batch.cancelled_s - batch.created_s) / self.settings.latency_s)
        done = list(self._done(batch, served=served))
        if self.settings.shuffle:
            keys = {each.key: draw(self._seed, place, stream=_ORDER_STREAM)[0] for place, each in enumerate(done)}
            done.sort(key=lambda each: keys[each.key])
        batch.done = done

    def _done(self, batch: Batch, *, served: int) -> Iterator[Done]:
        settings = self.settings
        name = f"{batch.api}-{batch.number}"
        for place, row in enumerate(batch.rows):
            chances = draw(self._seed, batch.number * 2**32 + place, stream=_ROW_STREAM)
            if unit(chances[1]) < settings.missing:
                continue
            if place >= served:
                yield Done(row.key, "cancelled")
            elif unit(chances[0]) < settings.expired:
                yield Done(row.key, "expired")
            else:
                said = self._answer(row, name)
                yield Done(row.key, "answered", said.status, said.body)


class BatchSite(typing.Protocol):
    """One provider's batch API."""

    dialect: Dialect
    """The API's errors and checks of keys."""

    def takes(self, request: Request) -> bool:
        """True if the request belongs to this API."""
        ...

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call. Raises BadRequest or TooMany."""
        ...
