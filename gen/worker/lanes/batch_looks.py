"""Looks at the batches of parked chunks, which no worker holds."""

from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.teachers.batches.base import Access, BatchApi, BatchRefused, Intent
from stillhouse.gen.teachers.batches.calls import called
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.transport import Lost, NotSent
from stillhouse.gen.worker.lanes.batch_calls import BatchCalls


class BatchLooks:
    """Looks at one teacher's batches."""

    def __init__(self, client: TeacherClient, api: BatchApi, *, calls: BatchCalls) -> None:
        self._client = client
        self._api = api
        self._calls = calls

    async def is_running(self, batch: OpenBatch) -> bool:
        """Look at the batch once; a batch that can't be looked at now counts as running."""
        access = self._client.access(self._client.endpoint_for(batch.url))
        if batch.missing:
            await self._cancel_late(batch, access)
        for each in batch.ids:
            try:
                found = await called(self._api.look(each, access), self._client.call)
            except (NotSent, Lost):
                continue
            except BatchRefused as refused:
                self._calls.refused(refused.trouble)
                continue
            if found.state != "running":
                return False
        return True

    async def _cancel_late(self, batch: OpenBatch, access: Access) -> None:
        """Cancel the batch if it is listed only now, because its samples were asked again."""
        intent = Intent(batch.missing, 0, batch.at)
        try:
            for each in await called(self._api.find(intent, access), self._client.call):
                if each.state == "running":
                    await called(self._api.cancel(each.id, access), self._client.call)
        except (NotSent, Lost):
            pass
        except BatchRefused as refused:
            self._calls.refused(refused.trouble)
