"""How a run works; none of it is part of the dataset."""

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.schemas.base import Strict


class RunSettings(Strict):
    """How a run works; none of it is part of the dataset."""

    workers: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = "auto"
    """Number of TeacherWorkers; `auto` starts one per 512 requests in flight, and leaves one CPU
    free: of the cluster's or, if the run starts its own Ray, of those that this process may use."""
    ship_every_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds between copies of a journal to the store; at most this many seconds of answers are lost with a node's
    disk."""
    give_up_after_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a teacher that has never answered; time during which it says that it is loading does not
    count."""
    keep_going: bool = False
    """Continue even if a check rejected all of its first 500 answers, or if batches created with another key or
    URL can't be found; their answers are then paid for again. The option --keep-going sets it."""
    journal_dir: str | None = None
    """Folder on each node for the journals of datasets on S3; by default the user's state folder."""
