"""What the parts of one teacher's batch lane share."""

from dataclasses import dataclass

from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.batch_intents import Intents
from stillhouse.gen.teachers.batches.base import BatchApi
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.worker.lanes.base import Gate, Listener
from stillhouse.gen.worker.lanes.batch_calls import BatchCalls
from stillhouse.gen.worker.lanes.batch_money import BatchMoney
from stillhouse.gen.worker.lanes.batch_search import BatchSearch
from stillhouse.gen.worker.leased_chunk import LeasedChunk


@dataclass(frozen=True, slots=True)
class BatchParts:
    """The parts of one lane."""

    client: TeacherClient
    api: BatchApi
    calls: BatchCalls
    intents: Intents
    search: BatchSearch
    money: BatchMoney
    listener: Listener[LeasedChunk]
    gate: Gate
    counters: Counters
    clock: Clock
