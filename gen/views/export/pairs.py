"""Preference pairs: an accepted answer, and one to the same prompt that was rejected for its content.

The rule: chosen answers are records. Rejected answers are those that a check rejected, and accepted ones that were not
selected and have a lower score than the chosen one. The best record is paired with the worst rejected answer, the next
best with the next worst, until one side is used up; no answer is in two pairs. Scores are those of one check; an answer
without a score ranks below all others, and of equal scores the lower sample counts as better. Answers with equal text
and calls don't make a pair.

An answer's counterpart may be in a shard written much later, by a retry. So the answers are put into a temporary
database on disk, which SQLite deletes: memory does not grow with the dataset.
"""

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.views.export.answer import Answer
from stillhouse.schemas.record import NOT_SELECTED

_BY_CHECK = "check:"


def pairs(rejected: Iterable[Answer], accepted: Iterable[Answer], *, by: str) -> Iterator[tuple[Answer, Answer]]:
    """(chosen, rejected) by the rule above, prompt by prompt in the order of `accepted`.

    `by`: the check whose scores count.

    Raises:
        StillhouseError: the temporary folder is full.
    """
    try:
        with closing(sqlite3.connect("")) as base:  # a file in the temporary folder, without a name
            base.execute("CREATE TABLE answer (prompt TEXT, is_chosen INT, score REAL, sample INT, body BLOB)")
            base.execute("CREATE INDEX by_prompt ON answer (prompt, is_chosen)")
            for answer in rejected:
                if _is_worse(answer):
                    _insert(base, answer, by=by)
            for answer in accepted:
                if base.execute("SELECT 1 FROM answer WHERE prompt = ?", (answer.prompt_key,)).fetchone():
                    _insert(base, answer, by=by)
            prompts = base.execute("SELECT prompt FROM answer WHERE is_chosen GROUP BY prompt ORDER BY min(rowid)")
            for (prompt,) in prompts:
                yield from _pairs_of(base, prompt, by=by)
    except sqlite3.OperationalError as error:
        raise StillhouseError(
            f"the temporary folder can't hold the answers to be paired ({error}): free space there, or set TMPDIR to "
            "a folder with more, and export again"
        ) from None


def _is_worse(answer: Answer) -> bool:
    reason = answer.rejected_as or ""
    return reason.startswith(_BY_CHECK) or reason == NOT_SELECTED


def _insert(base: sqlite3.Connection, answer: Answer, *, by: str) -> None:
    body = pickle.dumps(answer)
    row = (answer.prompt_key, answer.rejected_as is None, answer.scores.get(by), answer.sample, body)
    base.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row)


def _pairs_of(base: sqlite3.Connection, prompt: str, *, by: str) -> Iterator[tuple[Answer, Answer]]:
    """The pairs of one prompt: its records, best first, each with the worst rejected answer that is left."""
    query = "SELECT body FROM answer WHERE prompt = ? AND is_chosen = ? ORDER BY "
    best = base.execute(f"{query} score DESC NULLS LAST, sample, rowid", (prompt, True))
    lowest = base.execute(f"{query} score NULLS FIRST, sample DESC, rowid", (prompt, False))
    worst = [_read(body) for (body,) in lowest]
    for (body,) in best:
        chosen = _read(body)
        fits = (number for number, other in enumerate(worst) if _differ(chosen, other, by=by))
        if (number := next(fits, None)) is not None:
            yield chosen, worst.pop(number)


def _read(body: bytes) -> Answer:
    answer: Answer = pickle.loads(body)  # noqa: S301 - written by `_insert`, into a file that nobody else can open
    return answer


def _differ(chosen: Answer, other: Answer, *, by: str) -> bool:
    """True if the other answer is different, and worse."""
    if (chosen.text.strip(), chosen.calls) == (other.text.strip(), other.calls):
        return False
    if other.rejected_as != NOT_SELECTED:
        return True
    ours, theirs = chosen.scores.get(by), other.scores.get(by)
    return ours is not None and theirs is not None and theirs < ours
