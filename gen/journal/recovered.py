"""What a chunk's earlier owners left, and which of them left everything."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from stillhouse.gen.journal.frames import Frame


@dataclass(frozen=True, slots=True)
class Recovered:
    """The frames of a chunk's journals, read once."""

    frames: Iterator[Frame]
    whole: set[str] = field(default_factory=set)
    """Complete once all frames are read: the workers all of whose journals of the chunk are among them, to the end.
    They can have sent nothing else for the chunk."""

    def __iter__(self) -> Iterator[Frame]:
        return self.frames
