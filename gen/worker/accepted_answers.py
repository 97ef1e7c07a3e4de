"""The accepted answers of a chunk: those that neither the rules nor the recipe's checks reject."""

from collections.abc import Iterable, Iterator

from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.verdicts import rejected_by_rules
from stillhouse.schemas.completion import Completion


def why_rejected(held: OpenChunk, ordinal: int, outcome: Completion | Policy) -> str | None:
    """The reject reason that rules and checks give a settled answer; None if they accept it."""
    reason = rejected_by_rules(outcome, held.samples.prompt(ordinal), calls=held.chunk.columns.calls)
    if reason is None and (check := held.state.verdicts.rejecting(ordinal)) is not None:
        return f"check:{check}"
    return reason


def accepted_answers(
    held: OpenChunk, number: int, samples: Iterable[int] | None = None
) -> Iterator[tuple[Frame, Completion]]:
    """The accepted answers of the series with this number, each with its frame; `samples`: only of these.

    Raises:
        StoreAway: the journal can't be read.
    """
    state = held.state
    first = number * held.samples.per_series
    for sample in held.chunk.samples_of(number) if samples is None else samples:
        ordinal = first + sample
        place = state.answers.places[ordinal]
        if place is None or not state.is_settled(ordinal) or ordinal in state.given_up:
            continue
        frame = held.journal.read(*place)
        outcome = state.answers.outcome(ordinal, frame)
        if isinstance(outcome, Completion) and why_rejected(held, ordinal, outcome) is None:
            yield frame, outcome
