"""Reads a reply: here, or in a process apart if it is so large that this would hold the event loop."""

from typing import Any, NamedTuple

from stillhouse.gen.teachers.apart import APART, is_apart
from stillhouse.gen.teachers.given_scores import aligned
from stillhouse.gen.teachers.in_pieces import PIECE_BYTES
from stillhouse.gen.teachers.interpreter import Interpreter, Origin
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored


class Read(NamedTuple):
    """A reply's outcome and size."""

    outcome: Outcome
    size: int
    """Its bytes; for a stream, once it is folded."""


def read(interpreter: Interpreter, reply: Reply, scored: Scored | None = None) -> Read:
    """Read a teacher's reply. `scored`: the tokens that it was sent to score.

    Call it in a thread, if the reply is large.
    """
    if not is_apart(len(reply.body)):
        return _read(interpreter, reply, scored)
    found, texts = APART.call(_read_apart, interpreter.origin, interpreter.keys, reply, scored)
    if not texts:
        return found
    assert isinstance(found.outcome, Completion)
    whole: dict[str, Any] = {name: "".join(pieces) for name, pieces in texts.items()}
    return found._replace(outcome=found.outcome._replace(**whole))


def _read(interpreter: Interpreter, reply: Reply, scored: Scored | None) -> Read:
    folded = interpreter.fold(reply)
    outcome = interpreter.read_folded(folded)
    return Read(outcome if scored is None else aligned(outcome, scored), len(folded.body))


_Texts = dict[str, list[str]]
"""Long texts of a completion, by field, in pieces: decoding one at once would hold the loop."""


def _read_apart(origin: Origin, keys: tuple[str, ...], reply: Reply, scored: Scored | None) -> tuple[Read, _Texts]:
    """`keys`: needed to remove them. They come through the pipe: other processes could read an environment."""
    interpreter = Interpreter(*origin)
    interpreter.keys = keys
    found = _read(interpreter, reply, scored)
    if not isinstance(found.outcome, Completion):
        return found, {}
    texts = {name: _pieces(value) for name, value in found.outcome._asdict().items() if _is_long(value)}
    none: dict[str, Any] = dict.fromkeys(texts)
    return found._replace(outcome=found.outcome._replace(**none)), texts


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > PIECE_BYTES


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE_BYTES] for at in range(0, len(text), PIECE_BYTES)]
