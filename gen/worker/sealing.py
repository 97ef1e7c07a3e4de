"""Sealing: a chunk becomes one shard by one conditional write.

The side files (rejected, failed, raw) are written first and named by the seal; the data shard is the commit, and its
metadata names them. A seal that finds another's shard in place removes its own side files and has lost nothing: what is
stored came from the same journal. Memory is bounded by a row group, for answers are read back one by one.
"""

import secrets
from collections.abc import Mapping

from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.dataset.shard_meta import SIDES, ShardCounts, ShardMeta, SideFile
from stillhouse.gen.dataset.tidying import remove_orphans
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.teachers.retry import GiveUp
from stillhouse.gen.worker import rows
from stillhouse.gen.worker.earlier_answers import fingerprint, kept_answers
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.parquet_writer import Sheet
from stillhouse.gen.worker.seal_counts import SealCounts
from stillhouse.gen.worker.verdicts import rejected_by_rules
from stillhouse.schemas import __version__
from stillhouse.schemas.arrow import META_KEY
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe

NOT_WAITED_FOR = GiveUp(
    "ambiguous", "no answer came before its worker was gone, and enough others to its prompt are accepted", None
)
"""Of a sample that was asked and is not needed any more."""


class Sealer:
    """Writes the files of one open chunk, all of whose samples are settled."""

    def __init__(self, store: Store, recipe: Recipe, open_chunk: OpenChunk) -> None:
        self._store = store
        self._recipe = recipe
        self._open = open_chunk
        self._state = open_chunk.state
        self._id = open_chunk.chunk.id
        self._seal = secrets.token_hex(8)
        columns = open_chunk.chunk.columns.with_kept(open_chunk.chunk.kept)
        self._form = rows.Form(open_chunk.chunk.columns, inline=recipe.dataset.reasoning == "inline")
        self._schemas = {
            "data": columns.data,
            "rejected": columns.rejected,
            "failed": columns.failed,
            "raw": columns.raw,
        }
        self._sheets: dict[str, Sheet] = {}
        self._counts = SealCounts(open_chunk.chunk)
        self._kept: Mapping[SeriesKey, Mapping[bytes, str]] = {}
        """By series, the answers that are in earlier shards: fingerprint to record id."""

    def seal(self) -> ShardCounts | None:
        """Write all; what was sealed, or None when another's shard was there already.

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
        if chunk.retried and self._recipe.dedup.answers and self._open.samples.per_series > 1:
            self._kept = kept_answers(self._store, chunk, inline=self._form.inline)
        for bad in chunk.bad:
            self._sheet("failed").add(self._form.bad_row(bad, kept=len(chunk.kept)), size=len(bad.message))
        for duplicate in chunk.duplicates:
            self._sheet("rejected").add(self._form.duplicate_prompt(duplicate), size=_size(duplicate.prompt))
        for number in chunk.asked:
            self._write_series(number)

    def _write_series(self, number: int) -> None:
        chunk = self._open.chunk
        prompt = chunk.prompt_of(number)
        seen = dict(self._kept.get(chunk.key_of(number), {}))
        """Answers kept of this series: fingerprint to record id."""
        prompt_size = _size(prompt)
        records = self._sheet("data").rows
        for sample in chunk.samples_of(number):
            ordinal = number * self._open.samples.per_series + sample
            tries = self._state.tries(ordinal)
            self._counts.sample(tries)
            is_settled = self._state.is_settled(ordinal)
            if not is_settled and tries.attempts == 0:
                self._counts.not_needed += 1
                continue
            place = self._state.answers.places[ordinal]
            frame = self._open.journal.read(*place) if place is not None else None
            teacher = self._state.teacher(ordinal, frame.teacher if frame else None)
            sample_rows = rows.SampleRows(prompt, sample, teacher, tries, self._form)
            size = prompt_size + (len(frame.body) if frame else 0)
            reason = self._state.given_up.get(ordinal) if is_settled else self._state.spent.get(ordinal, NOT_WAITED_FOR)
            if frame is not None:
                self._count_checked(teacher, frame, reason)
            if reason is not None:
                self._counts.failed[reason.kind] += 1
                self._sheet("failed").add(sample_rows.failed(frame, reason), size=size)
            else:
                assert frame is not None, f"{self._id}: sample {ordinal} is settled without an answer"
                is_wanted = not chunk.accept or self._sheet("data").rows - records < chunk.need(number)
                self._write_answer(sample_rows, teacher, frame, prompt, seen, size, is_wanted=is_wanted)
            is_unchecked = reason is not None and reason.kind == "unchecked"  # whose answer is nowhere else
            if frame is not None and (is_unchecked or (reason is None and self._recipe.dataset.keep_raw)):
                self._sheet("raw").add(sample_rows.raw(frame), size=size)
        if chunk.accept:
            accepted = self._sheet("data").rows - records
            self._counts.series(number, need=chunk.need(number), accepted=accepted)

    def _count_checked(self, teacher: Interpreter, frame: Frame, reason: GiveUp | None) -> None:
        """Count what the checks say of the answer in the frame, and what it cost where they can't say anything."""
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
        prompt: Prompt,
        seen: dict[bytes, str],
        size: int,
        *,
        is_wanted: bool,
    ) -> None:
        outcome = self._state.answers.outcome(frame.ordinal, frame)
        assert isinstance(outcome, (Completion, Policy)), f"{self._id}: sample {frame.ordinal} is settled by {outcome}"
        reason, same = self._verdict(frame.ordinal, outcome, prompt, seen, sample_rows.record_id, is_wanted=is_wanted)
        if isinstance(outcome, Completion):
            self._counts.answer(teacher, outcome, reason)
        verdicts = self._state.verdicts.said.get(frame.ordinal, ())
        if reason is None:
            assert isinstance(outcome, Completion)
            self._sheet("data").add(sample_rows.record(frame, outcome, verdicts), size=size)
        else:
            self._counts.rejected[reason] += 1
            row = sample_rows.rejected(frame, outcome, reason, verdicts, of=same)
            self._sheet("rejected").add(row, size=size)

    def _verdict(
        self,
        ordinal: int,
        outcome: Completion | Policy,
        prompt: Prompt,
        seen: dict[bytes, str],
        record_id: str,
        *,
        is_wanted: bool,
    ) -> tuple[str | None, str | None]:
        """(why it is rejected, the equal answer that is kept); a record is noted in `seen`.

        `is_wanted`: False if enough answers of the series are accepted. That happens where rules or owners changed
        while it was asked.
        """
        reason = rejected_by_rules(outcome, prompt, calls=self._form.columns.calls)
        if reason is not None or isinstance(outcome, Policy):
            return reason, None
        if (check := self._state.verdicts.rejecting(ordinal)) is not None:
            return f"check:{check}", None
        answer = fingerprint(outcome.text, outcome.tool_calls)
        if self._recipe.dedup.answers and (same := seen.get(answer)) is not None:
            return "duplicate_answer", same
        if not is_wanted:
            return "not_selected", None
        seen[answer] = record_id
        return None, None

    def _put_side_files(self) -> dict[str, SideFile]:
        side = {}
        for kind in SIDES:
            if (sheet := self._sheets.get(kind)) is not None:
                sheet.finish({META_KEY: f'{{"seal": "{self._seal}"}}'})
                side[kind] = SideFile(key=self._id.side_key(kind, self._seal), rows=sheet.rows, sha256=sheet.sha256())
                self._store.put(side[kind].key, sheet.path)
        return side

    def _meta(self, side: dict[str, SideFile]) -> ShardMeta:
        return ShardMeta(
            schema_version=self._open.chunk.columns.version,
            stillhouse=__version__,
            seal=self._seal,
            generation=self._id.generation,
            chunk=self._id.number,
            identity=self._recipe.identity(),
            teachers=[
                {"name": t.name, "model": t.model_name, "terms": t.terms.model_dump(mode="json") if t.terms else None}
                | ({"price": t.price.model_dump(mode="json", exclude_none=True)} if t.price else {})
                for t in self._recipe.teachers
            ]
            + [each.model_dump(mode="json") for each in self._open.chunk.upstream],
            answered_as={teacher: sorted(models) for teacher, models in self._counts.models.items() if models},
            side=side,
            counts=self._counts.total(records=self._sheet("data").rows),
        )


def _size(prompt: Prompt) -> int:
    return sum(len(content) for _, content in prompt.messages)
