"""The dataset's `README.md`, kept up to date during a run; `gen.views.card` renders it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stillhouse.gen.errors import DatasetError, StillhouseError
from stillhouse.gen.inert import inert
from stillhouse.gen.store.base import Store

CARD_KEY = "README.md"
EVERY_S = 60.0
"""Seconds between a run's updates of the card."""
FIRST_S = 5.0
"""Seconds until a dataset without a card gets one: writing it at once would delay the workers' start."""
SHARE = 0.02
"""Maximum share of a run's time for updates of the card, each of which reads every footer."""


def write_card(store: Store, render: Callable[[str], str]) -> None:
    """Write the card that `render` makes from the stored one ("" if there is none).

    Raises:
        DatasetError: there is no dataset, or it is damaged, or the stored card is not UTF-8.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    try:
        stored = (store.get(CARD_KEY) or b"").decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise DatasetError(f"{store.url}/{CARD_KEY}: expected UTF-8; the file is left as it is") from None
    card = render(stored)
    if card != stored:
        store.put(CARD_KEY, card.encode())


@contextmanager
def kept_card(store: Store, render: Callable[[str], str]) -> Iterator[None]:
    """Keep the dataset's card up to date during the block, and write it once more at the end, however the block ends.

    A card that can't be written does not stop the run: the next run writes it.
    """
    ended = threading.Event()

    def keep() -> None:
        pause_s = FIRST_S if store.stat(CARD_KEY) is None else EVERY_S
        while not ended.wait(pause_s):
            pause_s = max(EVERY_S, _written_in(store, render) / SHARE)

    thread = threading.Thread(target=keep, name="card", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _written_in(store, render)


def _written_in(store: Store, render: Callable[[str], str]) -> float:
    """Write the card if possible; returns the seconds it took."""
    started = time.monotonic()
    try:
        write_card(store, render)
    except StillhouseError:  # store unreachable or dataset damaged: reported elsewhere
        pass
    except Exception as error:  # noqa: BLE001 - whatever a user wrote into it, a card must not end a run
        logging.getLogger("stillhouse").warning("README.md is left as it is: %s", inert(str(error))[:300])
    return time.monotonic() - started
