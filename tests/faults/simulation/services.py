"""What the parts of a simulated world share."""

import contextvars
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.transport import Transport
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

from .history import History
from .judging import VirtualJudging
from .loop import VirtualLoop
from .processes import Killed, Node, Process, Processes, current


@dataclass(frozen=True, slots=True)
class VirtualClock:
    """`gen.clock.Clock`."""

    loop: VirtualLoop

    def monotonic(self) -> float:
        """See `Clock`."""
        return self.loop.time()

    def time(self) -> float:
        """See `Clock`."""
        return 1.7e9 + self.loop.time()


@dataclass(eq=False)
class Services:
    """See the module."""

    rng: random.Random
    loop: VirtualLoop
    clock: VirtualClock
    processes: Processes
    history: History
    store: Store
    transport: Transport
    recipe: Recipe
    head: Node
    """Where the driver and the shared actors are."""
    nodes: list[Node]
    """Where workers are."""
    workers: int
    loss_share: float
    """Of messages between processes."""
    limiter_s: float = 0.0
    """How long the limiter takes to answer, beside the messages."""
    judging: VirtualJudging | None = None
    """What applies the recipe's checks."""
    errors: list[BaseException] = field(default_factory=list)
    """What went wrong in threads that nobody waits for."""

    @property
    def teacher(self) -> Teacher:
        """The only one."""
        return self.recipe.teachers[0]

    def recipe_on(self, node: Node) -> Recipe:
        """The recipe with the node's disk for its journals."""
        run = self.recipe.run.model_copy(update={"journal_dir": str(node.disk)})
        return self.recipe.model_copy(update={"run": run})

    def loses_message(self) -> bool:
        """True if the next message gets lost."""
        lost = self.rng.random() < self.loss_share
        self.history.message_lost |= lost
        return lost

    def in_thread(self, work: Callable[[], None]) -> None:
        """Run it concurrently; its process may die of it."""

        def do() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - the simulation fails with it
                self.errors.append(error)

        context = contextvars.copy_context()
        self.loop.run_in_executor(None, context.run, do)

    def dismiss(self, processes: Iterable[Process]) -> None:
        """End a crew; where its driver was killed, its processes live on for a while."""
        driver = current()
        orphaned = driver is not None and driver.dead_at is not None
        for process in processes:
            if orphaned and process.dead_at is None:
                delay_s = self.rng.choice((0.0, self.rng.uniform(0, 5.0)))
                outside = contextvars.Context()
                self.loop.call_at(self.loop.time() + delay_s, self.processes.kill, process, context=outside)
            else:
                self.processes.retire(process)
