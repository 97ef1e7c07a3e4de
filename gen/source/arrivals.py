"""New files of a followed source. A file counts once its size and time have not changed for a while.

Only listings are trusted: clocks of other machines may be wrong, and a copied file may keep an old time.
"""

from collections.abc import Callable

from stillhouse.gen.clock import Clock
from stillhouse.gen.source.files import SourceFile
from stillhouse.gen.source.survey import Found, survey
from stillhouse.schemas.source import Source

STILL_S = 2.0
"""A file that has not changed for this long is considered complete."""
TOGETHER_S = 0.3
"""Files seen within this time of the first one are planned with it: a listing may have come between two of them."""
LOOK_S = 0.2
"""How often the source is listed."""
MAX_SHARE = 0.2
"""Maximum share of the time that listing may take: a large source is listed less often."""


def _listed(source: Source) -> Found:
    return survey(source, may_be_empty=True)


class Arrivals:
    """Tracks which of a source's files are complete, and which of those are new."""

    def __init__(self, source: Source, *, clock: Clock, listed: Callable[[Source], Found] = _listed) -> None:
        """`listed`: lists the source's files."""
        self._source = source
        self._clock = clock
        self._listed = listed
        self._next_at = clock.monotonic()
        self._since: dict[SourceFile, float] = {}
        """Files of the last listing, each with when it was first seen unchanged; a file that changes counts as
        another."""
        self._still: list[SourceFile] = []
        """Complete files, in the source's order."""
        self._taken: set[SourceFile] = set()
        self._last: set[SourceFile] = set()
        """The files that the last `take` marked as no longer new."""
        self._has_new = False

    @property
    def has_untaken(self) -> bool:
        """True if there are files that were not taken, complete or not."""
        return any(file not in self._taken for file in self._since if file.size)

    def look(self) -> bool:
        """List the source if it is time to; True if there are complete files that were not taken.

        Raises:
            SourceError, StoreAway, StoreRefused: see `survey`.
        """
        begun = self._clock.monotonic()
        if begun >= self._next_at:
            found = self._listed(self._source).files
            ended = self._clock.monotonic()
            self._next_at = begun + max(LOOK_S, (ended - begun) / MAX_SHARE)
            self._since = {file: self._since.get(file, ended) for file in found}
            self._taken &= self._since.keys()
            # An empty file may have been opened just now, and be written to later.
            self._still = [file for file, since in self._since.items() if file.size and begun - since >= STILL_S]
            self._has_new = self._are_together(begun)
        return self._has_new

    def _are_together(self, now: float) -> bool:
        """True if there are new files, and no other that appeared with the first of them is still incomplete."""
        new = [self._since[file] for file in self._still if file not in self._taken]
        if not new:
            return False
        until = min(new) + TOGETHER_S
        return not any(now - since < STILL_S and since <= until for file, since in self._since.items() if file.size)

    def take(self) -> list[SourceFile]:
        """The complete files, in the source's order, if any of them is new; after this call, none is."""
        if not self._has_new:
            return []
        self._has_new = False
        self._last = {*self._still} - self._taken
        self._taken |= self._last
        return self._still

    def take_back(self) -> bool:
        """List again after files could not be read; True if any of those taken last is gone or has changed. Then the
        rest of them count as new.

        Raises:
            SourceError, StoreAway, StoreRefused: see `survey`.
        """
        self._next_at = self._clock.monotonic()
        self._taken -= self._last
        self.look()
        return not self._last <= self._since.keys()
