"""Cancels a dataset's open batches at their providers. What they finished is billed, and the next run collects it."""

import asyncio
from typing import NamedTuple

from stillhouse.gen.clock import Clock
from stillhouse.gen.dataset.batch_intents import PREFIX, Intents, KnownIntent, created_elsewhere, open_intents
from stillhouse.gen.dataset.batch_rules import teachers_by_who
from stillhouse.gen.dataset.layout import sealed_chunks
from stillhouse.gen.errors import Paused
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.batches.base import BatchApi, BatchRefused, Intent
from stillhouse.gen.teachers.batches.calls import called
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.transport import Lost, NotSent, Transport
from stillhouse.schemas.recipe import Recipe


class Cancelled(NamedTuple):
    """What happened to the open batches."""

    cancelled: int
    unknown: int
    """Intents whose batch the provider does not list by name: it may exist, and be listed later."""


async def cancel_batches(recipe: Recipe, store: Store, *, transport: Transport, clock: Clock) -> Cancelled:
    """Cancel all open batches of the recipe's teachers. No run may be working on the dataset.

    Raises:
        Paused: a provider refuses, or can't be reached; the same call again cancels the rest.
        DatasetError, StoreAway: an intent can't be read.
    """
    found = await asyncio.to_thread(lambda: open_intents(stat.key for stat in store.list(PREFIX)))
    sealed = await asyncio.to_thread(lambda: set(sealed_chunks(store)))
    count = Cancelled(0, 0)
    for who, teacher in teachers_by_who(recipe).items():
        chunks = sorted({chunk for chunk, of, _ in found if of == who} - sealed)
        if not chunks:
            continue
        interpreter = Interpreter(teacher, recipe.ask)
        client = TeacherClient(interpreter, transport=transport, account=Account(clock), clock=clock)
        await client.usable()
        api, intents = batches_of(teacher, teacher.batch), Intents(store, who=who)
        for chunk in chunks:
            for known in await asyncio.to_thread(intents.of, chunk):
                if not known.has_ended or known.was_given_up:
                    mark = await asyncio.to_thread(intents.account_mark, client.secret)
                    was = await _cancelled(known, client, api, mark=mark)
                    count = Cancelled(count.cancelled + was, count.unknown + (not was and not known.has_ended))
    return count


async def _cancelled(known: KnownIntent, client: TeacherClient, api: BatchApi, *, mark: str) -> bool:
    """Cancel the intent's batch; False if it is unknown which one that is. `mark`: the account's."""
    where = created_elsewhere(known.stored, urls=client.teacher.urls, mark=mark)
    at = client.access(client.endpoint_for(known.stored.url))
    try:
        batch = known.batch
        if batch is None:
            intent = Intent(known.stored.id, sum(1 for _ in known.stored.ordinals()), known.stored.at)
            found = await called(api.find(intent, at), client.call)
            batch = next((each.id for each in found if each.intent == intent.id), None)
        if batch is not None and where is not None and (await called(api.look(batch, at), client.call)).state == "lost":
            raise Paused(
                f"teacher {client.teacher.name}: the provider does not know batch {batch}, which was created {where}: "
                "go back to that; the same command cancels the rest"
            )
        if batch is not None:
            await called(api.cancel(batch, at), client.call)
    except BatchRefused as refused:
        words = client.interpreter.redact(refused.trouble.message)
        raise Paused(f"teacher {client.teacher.name}: {words}; the same command cancels the rest") from None
    except (NotSent, Lost) as error:
        raise Paused(f"teacher {client.teacher.name}: {error}; the same command cancels the rest") from None
    return batch is not None
