"""Reads the images of planned rows again when they are sent: chunks contain their locations, never the images.

Rows are requested in the source's order, so one open file that is read ahead serves nearly all of them. Images that
were read are kept for a while, up to `CACHE_BYTES`, for rows that are requested together or again.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.source.files import SourceFile, read_rows
from stillhouse.gen.source.formats.row import Position, Row
from stillhouse.gen.source.images import bytes_in
from stillhouse.schemas.image import Image, InlineImage, LinkedImage, SentImage, StoredImage
from stillhouse.schemas.source import Source

CACHE_BYTES = 64 * 2**20
FAR_ROWS = 100
"""A row that is further ahead than this is looked up rather than read up to."""
OPEN_FILES = 3
"""Open positions in files: for the newest chunk, for chunks taken over, and for rows that are asked again."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a prompt's row is."""

    file: SourceFile
    at: Position


class ImageReader:
    """The images of one source. Its methods may be called from several threads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], list[bytes | None]] = OrderedDict()
        """By file and row, most recently used last."""
        self._kept_bytes = 0
        self._open: list[tuple[str, int, Iterator[Row]]] = []
        """(url, number of the next row, its rows), most recently used last."""

    def at_hand(self, origin: Origin, images: Sequence[Image]) -> tuple[SentImage, ...] | None:
        """The images, if they can be had without reading."""
        if all(isinstance(image, LinkedImage) for image in images):
            return tuple(image for image in images if isinstance(image, LinkedImage))
        if not self._lock.acquire(blocking=False):
            return None
        try:
            key = (origin.file.url, origin.at.row)
            if (found := self._kept.get(key)) is None:
                return None
            self._kept.move_to_end(key)
            return _sent(found, images, origin)
        finally:
            self._lock.release()

    def read(self, origin: Origin, images: Sequence[Image]) -> tuple[SentImage, ...]:
        """The images; blocks.

        Raises:
            SourceError: the file is gone or changed.
            StoreAway, StoreRefused: its store does not answer, or refuses.
        """
        if (there := self.at_hand(origin, images)) is not None:
            return there
        with self._lock:
            key = (origin.file.url, origin.at.row)
            if key not in self._kept:
                self._read_up_to(origin)
            self._kept.move_to_end(key)
            return _sent(self._kept[key], images, origin)

    def _read_up_to(self, origin: Origin) -> None:
        file, at = origin.file, origin.at
        near = [each for each in self._open if each[0] == file.url and 0 <= at.row - each[1] <= FAR_ROWS]
        if near:
            place = max(near, key=lambda each: each[1])
            self._open.remove(place)  # also if reading fails
            rows = place[2]
        else:
            rows = read_rows(file, columns=self._source.images, start=at, source=self._source)
        for row in rows:
            if row.at.row >= at.row:
                self._keep(file.url, row, origin)
                self._open = [*self._open[-OPEN_FILES + 1 :], (file.url, row.at.row + 1, rows)]
                return
            self._keep(file.url, row, None)
        raise _changed(origin)

    def _keep(self, url: str, row: Row, wanted: Origin | None) -> None:
        """Keep a row's images; `wanted` is the requested row, which must have some."""
        try:
            found = bytes_in(row.values or {}, self._source.images)
        except NoPrompt:
            if wanted is not None:
                raise _changed(wanted) from None
            return
        key = (url, row.at.row)
        self._kept_bytes += _size(found) - _size(self._kept.pop(key, []))
        self._kept[key] = found
        while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= _size(gone)


def _size(found: Sequence[bytes | None]) -> int:
    return sum(len(data) for data in found if data is not None)


def _sent(found: Sequence[bytes | None], images: Sequence[Image], origin: Origin) -> tuple[SentImage, ...]:
    if len(found) != len(images):
        raise _changed(origin)
    return tuple(_one(data, image, origin) for data, image in zip(found, images, strict=True))


def _one(data: bytes | None, image: Image, origin: Origin) -> SentImage:
    if isinstance(image, StoredImage):
        if data is None or sha256(data).digest() != image.sha256:
            raise _changed(origin)
        return InlineImage(image.media_type, data)
    return image


def _changed(origin: Origin) -> SourceError:
    return SourceError(
        f"{origin.file.url}:{origin.at.line}: its images are not the planned ones: the file has changed; restore "
        "it, or use another dataset.path"
    )
