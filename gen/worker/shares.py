"""A worker's shares of its accounts' limits: renewed from their ledgers in time, given back at the end."""

import asyncio
import contextlib

from stillhouse.gen.coordination.messages import LimitLedger, Unreachable
from stillhouse.gen.limits.shares import SHARE_RENEW_S
from stillhouse.gen.worker.parts import Parts

TELL_AFTER_S = 10.0
"""A shared actor that is unreachable for this long is reported."""


class Shares:
    """The shares of one worker."""

    def __init__(self, parts: Parts) -> None:
        self._worker, self._asker, self._clock = parts.name, parts.asker, parts.clock
        self._ledgers, self._accounts = parts.ledgers, parts.accounts
        self._answered_at = dict.fromkeys(self._ledgers, self._clock.monotonic())
        self.is_last = False
        """True if there was no chunk to lease when the worker last asked for one."""

    @property
    def late(self) -> str | None:
        """An account whose ledger has not answered for long enough to report."""
        now = self._clock.monotonic()
        return next((key for key, at in self._answered_at.items() if now - at > TELL_AFTER_S), None)

    async def renew(self, key: str) -> None:
        """Renew one account's share over and over."""
        account, ledger = self._accounts[key], self._ledgers[key]
        while True:
            asked_at = self._clock.monotonic()
            try:
                report = account.report(backlog=self._asker.backlog(account), is_last=self.is_last)
                account.accept(await ledger.renew(self._worker, report))
                self._answered_at[key] = self._clock.monotonic()
                self._asker.fill_slots()
            except Unreachable:
                await asyncio.sleep(0.25)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, asked_at + SHARE_RENEW_S - self._clock.monotonic())):
                    await account.urgent.wait()

    async def leave(self) -> None:
        """Return the shares of all accounts; nothing may be in flight."""
        await asyncio.gather(*map(self._leave, self._ledgers.values()))

    async def _leave(self, ledger: LimitLedger) -> None:
        with contextlib.suppress(Unreachable):
            await ledger.leave(self._worker)
