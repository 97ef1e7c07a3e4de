"""AWS keys, with their renewal."""

import contextlib
import threading
from typing import NamedTuple, Protocol

LOOK_EVERY_S = 60.0
"""How often to check whether keys are due for renewal; botocore renews them 15 minutes before they expire."""


class AwsKeys(NamedTuple):
    """Keys at one moment, by botocore's names; as a source, fixed keys never change."""

    access_key: str
    secret_key: str
    token: str | None = None

    def get_frozen_credentials(self) -> "AwsKeys":
        """These keys: they never change."""
        return self

    def __repr__(self) -> str:
        return "AwsKeys(…)"


class KeysAway(Exception):
    """Keys can't be obtained now."""


class KeySource(Protocol):
    """A source of keys."""

    def get_frozen_credentials(self) -> AwsKeys:
        """The present keys, renewed if due; may take seconds. Raises KeysAway."""
        ...


class AwsChain:
    """Keys from environment, profile, role or instance, renewed in time without blocking anyone."""

    def __init__(self, source: KeySource) -> None:
        """Raises KeysAway."""
        self._source = source
        self._keys = self._read()
        self._looked_at: float | None = None

    @property
    def keys(self) -> AwsKeys:
        """The keys as last read."""
        return self._keys

    def current(self, *, now: float) -> AwsKeys:
        """The keys to sign with; `now`: seconds since 1970."""
        if self._looked_at is None:
            self._looked_at = now
        elif abs(now - self._looked_at) > LOOK_EVERY_S:
            self._looked_at = now
            threading.Thread(target=self._renew, name="aws-keys", daemon=True).start()
        return self._keys

    def _renew(self) -> None:
        # The old ones hold for a while; once they don't, the run pauses with AWS's own words.
        with contextlib.suppress(KeysAway):
            self._keys = self._read()

    def _read(self) -> AwsKeys:
        return self._source.get_frozen_credentials()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AwsChain) and self._keys == other._keys

    __hash__ = None  # type: ignore[assignment]
