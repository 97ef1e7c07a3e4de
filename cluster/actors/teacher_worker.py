"""The TeacherWorker: one actor that runs a `Worker`, with its connections and handles to shared actors."""

import gc
import logging
import os
import secrets
from importlib import import_module
from typing import TYPE_CHECKING, Any

import ray

from stillhouse.cluster.actors.events import event
from stillhouse.cluster.actors.plain import Plain, unpack_recipe
from stillhouse.cluster.actors.startup import described
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.coordination.messages import End
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import StillhouseError, cause_of
from stillhouse.gen.process.garbage import collect_rarely
from stillhouse.gen.process.large_blocks import leave_arrow_to_c_library, return_large_blocks

# Here, because Ray imports pyarrow before it calls an actor's `__init__`, to unpack the arguments. A driver imports
# this module too, but has imported pyarrow by then.
leave_arrow_to_c_library()

# The driver imports this module too, and should not wait for what only a worker needs.
if TYPE_CHECKING:
    from stillhouse.gen.worker.worker import Worker

_NEEDED = ("stillhouse.gen.teachers.http", "stillhouse.gen.worker.worker")
"""Imported as soon as the actor starts, so that a dependency that a node lacks is reported as the reason it can't."""


class TeacherWorker:
    """Asks, journals, checks and seals, chunk by chunk."""

    def __init__(self, recipe: Plain, queue: Any, *, number: int, head: str | None) -> None:
        collect_rarely()
        for module in _NEEDED:
            import_module(module)
        from stillhouse.cluster.actors.handles import QueueHandle
        from stillhouse.cluster.actors.logged_queue import LoggedQueue
        from stillhouse.gen.process.without_pandas import without_pandas

        without_pandas()
        return_large_blocks()
        self._recipe = unpack_recipe(recipe)
        self._head = head
        self._queue = LoggedQueue(QueueHandle(queue), teachers=[teacher.name for teacher in self._recipe.teachers])
        node = ray.get_runtime_context().get_node_id()[:8]
        self.name = f"{node}.worker-{number}-{os.getpid()}-{secrets.token_hex(3)}"
        self._worker: Worker | None = None
        self._stopping = False

    @described
    def __repr__(self) -> str:
        """The worker's figures on one line; the Ray dashboard shows those of the actor's start."""
        asked = f"{self.name} asks {', '.join(teacher.name for teacher in self._recipe.teachers)}"
        if self._worker is None:
            return f"TeacherWorker({asked})"
        counters = self._worker.counters
        return (
            f"TeacherWorker({asked}: {self._queue.requests_per_s:,.1f} requests/s, {counters.in_flight:,} in flight, "
            f"{counters.open_chunks:,} open chunks)"
        )

    async def identify(self) -> str:
        """The worker's name, once it has started."""
        return self.name

    async def run(self) -> End:
        """Work until nothing is left; never raises for anything a user can cause."""
        end = await self._work()
        event("worker ended", worker=self.name, how=end.kind, message=end.message)
        return end

    async def _work(self) -> End:
        from stillhouse.cluster.actors.handles import LedgerHandle
        from stillhouse.gen.teachers.http import HttpTransport
        from stillhouse.gen.worker.watchdog import Watchdog
        from stillhouse.gen.worker.worker import Worker

        gc.freeze()
        transport = HttpTransport()
        try:
            store = open_dataset(self._recipe)
            self._worker = Worker(
                self.name,
                recipe=self._recipe,
                store=store,
                queue=self._queue,
                ledgers={key: LedgerHandle(key, told, node=self._head) for key, told in self._recipe.accounts.items()},
                transport=transport,
                clock=SYSTEM,
            )
            if self._stopping:
                self._worker.stop()
            with Watchdog():
                return await self._worker.run()
        except StillhouseError as error:
            return End.because(error)
        except Exception as error:  # the process survives: this is our bug, not the fault of a prompt
            logging.getLogger("stillhouse").exception("worker %s failed", self.name)
            return End("failed", f"worker {self.name} failed: {cause_of(error)}")
        finally:
            await transport.close()

    async def stop(self) -> None:
        """Finish the requests in flight and give the rest back."""
        self._stopping = True
        if self._worker is not None:
            self._worker.stop()
