"""Sealing: a chunk becomes one shard by one conditional write.

The side files (rejected, failed, raw) are written first and named by the seal; the data shard is the commit, and its
metadata names them. A seal that finds another worker's shard in place removes its own side files and has lost nothing:
the stored shard came from the same journal. Memory is bounded by a row group, because answers are read back a few at a
time.
"""

import secrets
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from stillhouse.gen.checks.base import CheckResult
from stillhouse.gen.checks.selection import Selected, by_score
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.dataset.shard_meta import SIDES, ShardCounts, ShardMeta, SideFile
from stillhouse.gen.dataset.stored_teacher import StoredTeacher
from stillhouse.gen.dataset.tidying import remove_orphans
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.assigner import ONLINE
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.teachers.retry import GiveUp
from stillhouse.gen.worker import rows
from stillhouse.gen.worker.accepted_answers import accepted_answers, why_rejected
from stillhouse.gen.worker.earlier_answers import Kept, fingerprint
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.parquet_writer import Sheet
from stillhouse.gen.worker.prompt_choice import PromptChoice
from stillhouse.gen.worker.seal_counts import SealCounts
from stillhouse.gen.worker.stored_images import stored_images, with_features
from stillhouse.schemas import __version__
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import META_KEY

NOT_WAITED_FOR = GiveUp(
    "ambiguous", "no answer came before its worker was gone, and enough others to its prompt are accepted", None
)
"""Failure of a sample that was asked and is no longer needed."""
_NOTHING_KEPT = Kept()


class _Accepted(NamedTuple):
    """An answer that may be selected."""

    ordinal: int
    fingerprint: bytes
    record_id: str


class Sealer:
    """Writes the files of one open chunk, all of whose samples are settled."""

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        open_chunk: OpenChunk,
        *,
        earlier: Mapping[SeriesKey, Kept] = MappingProxyType({}),
        votes: Mapping[int, Selected] = MappingProxyType({}),
    ) -> None:
        """Args:
        store: the dataset's.
        recipe: the dataset's.
        open_chunk: what is sealed.
        earlier: by series, what earlier shards hold of its accepted answers.
        votes: what a vote selected of each series, by its number; for recipes with a majority.
        """
        self._store = store
        self._recipe = recipe
        self._open = open_chunk
        self._state = open_chunk.state
        self._id = open_chunk.chunk.id
        self._seal = secrets.token_hex(8)
        columns = open_chunk.chunk.columns.with_kept(open_chunk.chunk.kept)
        self._form = rows.Form(open_chunk.chunk.columns, inline=recipe.dataset.reasoning == "inline")
        self._schemas = {
            "data": with_features(columns.data, columns.images),
            "rejected": with_features(columns.rejected, columns.images),
            "failed": columns.failed,
            "raw": columns.raw,
        }
        self._sheets: dict[str, Sheet] = {}
        self._images: tuple[bytes, list[rows.ImageCell] | None] = (b"", None)
        """(prompt key, value of the column `images`) of the last prompt."""
        self._counts = SealCounts(open_chunk.chunk, open_chunk.state.spending)
        self._asked_online: list[str] = []
        """See `ShardMeta`."""
        self._earlier = earlier
        self._votes = votes
        self._may_repeat = recipe.dedup.answers and (open_chunk.chunk.samples > 1 or bool(earlier))
        """True if answers of a series may be equal, and are kept once."""

    def seal(self) -> ShardCounts | None:
        """Write all files; returns what was sealed, or None if another worker's shard was already there.

        Raises:
            StoreAway: the store or the local disk failed; the journal still has everything.
        """
        try:
            self._write_rows()
            meta = self._meta(self._put_side_files())
            data = self._sheet("data")
            data.finish({META_KEY: meta.model_dump_json()})
            if self._store.put_new(self._id.data_key, data.path, seal=self._seal):
                if self._open.had_owners:
                    remove_orphans(self._store, self._id, seal=self._seal)
                return meta.counts
            for side in meta.side.values():
                self._store.delete(side.key)
            return None
        finally:
            for sheet in self._sheets.values():
                sheet.remove()

    def _sheet(self, kind: str) -> Sheet:
        if kind not in self._sheets:
            path = self._store.scratch() / f"{self._id}-{self._seal}-{kind}.parquet"
            self._sheets[kind] = Sheet(path, self._schemas[kind])
        return self._sheets[kind]

    def _write_rows(self) -> None:
        chunk = self._open.chunk
        for bad in chunk.bad:
            self._sheet("failed").add(self._form.bad_row(bad, kept=len(chunk.kept)), size=len(bad.message))
        for duplicate in chunk.duplicates:
            self._sheet("rejected").add(self._form.duplicate_prompt(duplicate), size=_size(duplicate.prompt))
        places = (self._state.answers.places[ordinal] for number in chunk.asked for ordinal in self._ordinals(number))
        frames = self._open.journal.read_each(place for place in places if place is not None)
        for number in chunk.asked:
            self._write_series(number, frames)

    def _ordinals(self, number: int) -> Iterator[int]:
        first = number * self._open.samples.per_series
        return (first + sample for sample in self._open.chunk.samples_of(number))

    def _write_series(self, number: int, frames: Iterator[Frame]) -> None:
        """`frames`: those of the answers from this series on."""
        chunk = self._open.chunk
        prompt = chunk.prompt_of(number)
        choice = self._choice(number)
        prompt_size = _size(prompt)
        for sample in chunk.samples_of(number):
            ordinal = number * self._open.samples.per_series + sample
            frame = None if self._state.answers.places[ordinal] is None else next(frames)
            tries = self._state.tries(ordinal)
            self._counts.sample(tries)
            is_settled = self._state.is_settled(ordinal)
            if not is_settled and tries.attempts == 0:
                self._counts.not_needed += 1
                continue
            teacher = self._state.teacher(ordinal, frame.teacher if frame else None)
            images = self._images_of(prompt) if frame is not None else None
            sample_rows = rows.SampleRows(prompt, sample, teacher, tries, self._form, images=images)
            size = prompt_size + (len(frame.body) if frame else 0)
            size += sum(len(image["bytes"] or b"") for image in images or ())
            reason = self._state.given_up.get(ordinal) if is_settled else self._state.spent.get(ordinal, NOT_WAITED_FOR)
            if frame is not None and chunk.columns.checks:
                self._count_checked(teacher, frame, reason)
            if reason is not None:
                self._counts.failure(reason)
                self._sheet("failed").add(sample_rows.failed(frame, reason), size=size)
            else:
                assert frame is not None, f"{self._id}: sample {ordinal} is settled without an answer"
                self._write_answer(sample_rows, teacher, frame, choice, size)
            is_unchecked = reason is not None and reason.kind == "unchecked"  # its answer is nowhere else
            if frame is not None and is_unchecked and (frame.teacher or 0) >= ONLINE:
                self._asked_online.append(sample_rows.record_id)
            if frame is not None and (is_unchecked or (reason is None and self._recipe.dataset.keep_raw)):
                self._sheet("raw").add(sample_rows.raw(frame), size=size)
        if chunk.accept:
            self._counts.series(number, need=chunk.need(number), accepted=choice.accepted)

    def _choice(self, number: int) -> PromptChoice:
        """Decides about the accepted answers of the series."""
        chunk, equal_once, select = self._open.chunk, self._recipe.dedup.answers, self._recipe.select
        earlier = self._earlier.get(chunk.key_of(number), _NOTHING_KEPT) if self._earlier else _NOTHING_KEPT
        seen, selected = earlier.ids, None
        if select is not None and select.best_of is not None:
            check = chunk.columns.checks.index(select.best_of.check)
            accepted = list(self._accepted(number))
            scores = {each.ordinal: self._score(each.ordinal, check) for each in accepted}
            selected = by_score(scores, places=select.best_of.keep - earlier.count)
            kept = selected.kept
            if chunk.accept and equal_once:
                seen = dict(seen)
                for each in sorted(accepted, key=lambda each: each.ordinal not in kept):
                    seen.setdefault(each.fingerprint, each.record_id)
        elif select is not None:
            selected = self._votes[number]
        need = chunk.need(number) if chunk.accept else None
        return PromptChoice(seen, equal_once=equal_once, need=need, selected=selected)

    def _accepted(self, number: int) -> Iterator[_Accepted]:
        key = self._open.chunk.prompt_of(number).key
        first = number * self._open.samples.per_series
        for frame, completion in accepted_answers(self._open, number):
            ids = self._open.samples.teacher(frame.ordinal, frame.teacher).ids
            answer = fingerprint(completion.text, completion.tool_calls)
            yield _Accepted(frame.ordinal, answer, ids.of(key, frame.ordinal - first))

    def _score(self, ordinal: int, check: int) -> float | None:
        verdict = self._state.verdicts.said[ordinal][check]
        assert isinstance(verdict, CheckResult), f"{self._id}: sample {ordinal} is accepted unchecked"
        return verdict.score

    def _images_of(self, prompt: Prompt) -> list[rows.ImageCell] | None:
        """The value of the column `images`, computed once for all samples of a prompt; None if there is none."""
        chunk = self._open.chunk
        if chunk.images is not None and self._images[0] != prompt.key:
            self._images = (prompt.key, stored_images(chunk, prompt))
        return self._images[1]

    def _count_checked(self, teacher: Interpreter, frame: Frame, reason: GiveUp | None) -> None:
        """Count the checks' verdicts on the answer in the frame, and its cost if they can't judge it."""
        ordinal = frame.ordinal
        self._counts.verdicts(teacher.teacher.name, self._state.verdicts.said.get(ordinal, ()))
        is_unchecked = reason is not None and reason.kind == "unchecked"
        if is_unchecked or self._open.was_carried(ordinal):
            outcome = self._state.answers.outcome(ordinal, frame)
            if isinstance(outcome, Completion):
                if is_unchecked:
                    self._counts.unchecked(teacher, outcome)
                if self._open.was_carried(ordinal):
                    self._counts.unchecked(teacher, outcome, sign=-1)

    def _write_answer(
        self,
        sample_rows: rows.SampleRows,
        teacher: Interpreter,
        frame: Frame,
        choice: PromptChoice,
        size: int,
    ) -> None:
        outcome = self._state.answers.outcome(frame.ordinal, frame)
        assert isinstance(outcome, (Completion, Policy)), f"{self._id}: sample {frame.ordinal} is settled by {outcome}"
        reason, same = why_rejected(self._open, frame.ordinal, outcome), None
        if reason is None and isinstance(outcome, Completion):
            answer = fingerprint(outcome.text, outcome.tool_calls) if self._may_repeat else b""
            reason, same = choice.reject(frame.ordinal, answer, sample_rows.record_id)
        if isinstance(outcome, Completion):
            self._counts.answer(teacher, outcome, reason)
        verdicts, share = self._state.verdicts.said.get(frame.ordinal, ()), choice.share(frame.ordinal)
        if reason is None:
            assert isinstance(outcome, Completion)
            self._sheet("data").add(sample_rows.record(frame, outcome, verdicts, vote_share=share), size=size)
        else:
            self._counts.rejected[reason] += 1
            row = sample_rows.rejected(frame, outcome, reason, verdicts, of=same, vote_share=share)
            self._sheet("rejected").add(row, size=size)

    def _put_side_files(self) -> dict[str, SideFile]:
        side = {}
        for kind in SIDES:
            if (sheet := self._sheets.get(kind)) is not None:
                sheet.finish({META_KEY: f'{{"seal": "{self._seal}"}}'})
                side[kind] = SideFile(key=self._id.side_key(kind, self._seal), rows=sheet.rows, sha256=sheet.sha256())
                self._store.put(side[kind].key, sheet.path)
        return side

    def _meta(self, side: dict[str, SideFile]) -> ShardMeta:
        data, labels = self._sheet("data"), self._form.labels
        return ShardMeta(
            schema_version=self._open.chunk.columns.version,
            stillhouse=__version__,
            seal=self._seal,
            generation=self._id.generation,
            chunk=self._id.number,
            identity=self._recipe.identity(),
            teachers=[
                StoredTeacher.of(t, self._recipe).as_stored()
                | t.model_dump(mode="json", include={"price", "online_price"}, exclude_none=True)
                | ({"mode": t.mode} if t.mode != "online" else {})
                for t in self._recipe.teachers
            ]
            + [each.model_dump(mode="json") for each in self._open.chunk.upstream],
            answered_as={teacher: sorted(models) for teacher, models in self._counts.models.items() if models},
            asked_online=tuple(self._asked_online),
            side=side,
            counts=self._counts.total(records=data.rows, no_logprobs=data.nulls_in(labels) if labels else 0),
        )


def _size(prompt: Prompt) -> int:
    return prompt.chars
