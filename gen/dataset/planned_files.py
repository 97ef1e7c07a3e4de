"""Finds a plan's source files by their content, even after they were moved, copied or renamed.

A file is the planned one if its size and etag match, or its size and digest. Plans of schema version 1 have no digest:
for them, size and name must do, and each prompt is compared with its key when it is read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from stillhouse.gen.dataset.plans import PlannedFile
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.files import SourceFile, digest_of, stat_file
from stillhouse.schemas.recipe import Recipe

_READERS = 16


class PlannedFiles:
    """The source's files at their current locations."""

    def __init__(self, recipe: Recipe, *, found: list[SourceFile] | None = None) -> None:
        """`found`: the files that count; by default those that `surveyed` finds, once they are needed."""
        self._recipe = recipe
        self._source = recipe.source
        self._found = found
        self._digests: dict[SourceFile, str] = {}
        self._located: dict[PlannedFile, SourceFile] = {}

    def found(self) -> list[SourceFile]:
        """The files below the recipe's paths; see `surveyed`."""
        if self._found is None:
            self._found = surveyed(self._recipe).files
        return self._found

    def locate(self, planned: PlannedFile) -> SourceFile:
        """The file as it is now.

        Raises:
            SourceError: it is gone, or has changed.
        """
        if planned not in self._located:
            self._located[planned] = self._searched(planned)
        return self._located[planned]

    def check(self, planned: Iterable[PlannedFile]) -> None:
        """Refuse files that can't be read again, before planning anything that needs them.

        Raises:
            SourceError: one is gone, or has changed.
        """
        in_place = set(map(_place_of, self.found()))  # one listing instead of a call per file
        for file in planned:
            if _place_of(file) not in in_place:
                self.locate(file)

    def _searched(self, planned: PlannedFile) -> SourceFile:
        there = stat_file(planned.url, self._source)
        if there is not None and (_place_of(planned) == _place_of(there) or self._is_same(planned, there)):
            return there
        # The file was moved, and another one may have taken its place.
        try:
            candidates = self.found()
        except SourceError:
            candidates = []
        for file in candidates:
            if self._is_same(planned, file):
                return file
        if there is None:
            raise SourceError(
                f"{planned.url} is gone, and no other source file has the same content: put it back, or use another "
                "dataset.path"
            )
        raise changed(planned, there)

    def matched(self, known: Sequence[PlannedFile]) -> dict[SourceFile, PlannedFile]:
        """Found files that are among `known` (latest first), each at most once.

        A file's location counts before its content.

        Raises:
            SourceError: a planned file is nowhere to be found, and the file at its location is neither that one nor any
                other planned one.
        """
        matched: dict[SourceFile, PlannedFile] = {}
        at = {planned.url: planned for planned in reversed(known)}
        alike = Counter((file.size, file.etag) for file in self.found())
        for file in self.found():
            planned = at.get(file.url)
            if planned is not None and _place_of(planned) == _place_of(file):
                # Files written within one tick of a local disk's clock have the same etag, so they may have swapped
                # names.
                is_certain = alike[file.size, file.etag] == 1 or planned.digest is None
                if is_certain or planned.digest == self.digest(file):
                    matched[file] = planned
        there = set(matched.values())
        left: defaultdict[int, list[PlannedFile]] = defaultdict(list)
        for planned in known:
            if planned not in there:
                left[planned.size].append(planned)
        rest = [file for file in self.found() if file not in matched]
        self._digest([file for file in rest if left[file.size]])
        # files whose only change is a new etag come first
        for file in sorted(rest, key=lambda file: file.url not in at):
            same = [planned for planned in left[file.size] if self._is_same(planned, file)]
            planned = at.get(file.url)
            if same:
                matched[file] = planned if planned in same else same[0]
                left[file.size].remove(matched[file])
        placed = set(matched.values())
        for file in rest:
            planned = at.get(file.url)
            if planned is not None and planned not in placed and file not in matched:
                raise changed(planned, file)
        return matched

    def digest(self, file: SourceFile) -> str:
        """The file's digest; see `digest_of`."""
        if file not in self._digests:
            self._digests[file] = digest_of(file, source=self._source)
        return self._digests[file]

    def plan(self, files: Iterable[tuple[SourceFile, tuple[int, int, int]]]) -> tuple[PlannedFile, ...]:
        """The files as a plan records them, each from (row, offset, line) on."""
        files = list(files)
        self._digest([file for file, _ in files])
        return tuple(
            PlannedFile(
                url=file.url,
                size=file.size,
                etag=file.etag,
                digest=self.digest(file),
                row=row,
                offset=offset,
                line=line,
            )
            for file, (row, offset, line) in files
        )

    def _digest(self, files: Sequence[SourceFile]) -> None:
        """Read the digests of many files at once."""
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(self.digest, files))

    def _is_same(self, planned: PlannedFile, file: SourceFile) -> bool:
        """True if their contents are equal; without a digest, if nothing speaks against it."""
        if planned.size != file.size:
            return False
        if planned.digest is not None:
            return planned.digest == self.digest(file)
        if planned.url == file.url:
            return planned.etag == file.etag
        return PurePosixPath(planned.url).name == PurePosixPath(file.url).name


def _place_of(file: PlannedFile | SourceFile) -> tuple[str, int, str]:
    """The file's location and, as far as a listing shows it, its content."""
    return file.url, file.size, file.etag


def changed(planned: PlannedFile, now: SourceFile) -> SourceError:
    """The error for a file at a planned file's location that is not that file."""
    sizes = f"it was {planned.size} bytes, it is {now.size}"
    if planned.size == now.size:
        sizes = "its size is the same, its content is not"
    return SourceError(
        f"{now.url}: changed after it was planned ({sizes}); "
        "restore it, put new prompts into a new file beside it, or use another dataset.path"
    )
