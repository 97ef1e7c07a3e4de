"""Compares what is stored at the end with what really happened."""

import itertools
import re
from collections import Counter, defaultdict
from typing import Any

import pyarrow.parquet as pq

from stillhouse.gen.dataset.layout import JOURNAL_PREFIX
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.views.verify import verify

from .history import SETTLING, Broken, History, Request, Sample
from .services import Services
from .teacher import JUDGE, SEEDS_APART

UNANSWERED = frozenset(("lost", "cut", "hang", "torn", "empty", "missing"))
_CHUNK = re.compile(r"part-\d+-\d+")
_SERIAL = re.compile(r"\br(\d+)\b")


def check_stored(services: Services, prompts: set[str]) -> None:
    """Compare; the dataset is finished.

    Raises:
        Broken: a promise is broken.
    """
    if services.errors:
        raise services.errors[0]
    _check_verified(services)
    rows = {kind: _rows(services, kind) for kind in ("data", "rejected", "failed")}
    ask = services.recipe.ask
    series = {(prompt, teacher * SEEDS_APART) for prompt in prompts for teacher in range(_series(services))}
    wanted = {(prompt, first + n) for prompt, first in series for n in range(ask.most_samples)}
    settled = _check_samples(rows, wanted, accept=ask.accept is not None)
    _check_answers(services.history, settled, rows["failed"])
    summary = summarise(services.store)
    _check_summary(summary, rows, wanted=len(wanted))
    _check_selected(services, rows)
    if ask.accept is not None:
        _check_accepted(services, series, rows, summary)
    _check_attempts(services.history, rows, summary)


def _series(services: Services) -> int:
    """Series per prompt."""
    return len(services.recipe.answering) if services.recipe.route == "each" else 1


def _check_verified(services: Services) -> None:
    report = verify(services.store)
    findings = [f for f in report.findings if not f.key.startswith("_stillhouse/tmp/")]
    if findings:
        raise Broken(f"verify: {findings[0].kind} {findings[0].key}: {findings[0].message}")
    if left := [stat.key for stat in services.store.list(JOURNAL_PREFIX)]:
        raise Broken(f"journals are left: {left}")


def _rows(services: Services, kind: str) -> list[dict[str, Any]]:
    found = []
    for stat in services.store.list(f"{kind}/"):
        with services.store.open(stat.key) as file:
            found += [row | {"_key": stat.key} for row in pq.read_table(file).to_pylist()]
    for row in found:
        row["_number"] = row["sample"]
        if services.recipe.route == "each" and row["sample"] is not None:
            row["_number"] += int(row["teacher"].removeprefix("t")) * SEEDS_APART
    return found


def _sample_of(row: dict[str, Any]) -> Sample | None:
    return None if row["record_id"] is None else (row["prompt"][-1]["content"], row["_number"])


def _check_samples(
    rows: dict[str, list[dict[str, Any]]], wanted: set[Sample], *, accept: bool
) -> dict[Sample, dict[str, Any]]:
    """Check that every sample is once a record or rejected, or else failed or not needed; returns the rows of the
    former.
    """
    settled: dict[Sample, dict[str, Any]] = {}
    for row in [*rows["data"], *rows["rejected"]]:
        sample = _sample_of(row)
        if sample is None:
            continue
        if sample in settled:
            raise Broken(f"{sample} is in {settled[sample]['_key']} and in {row['_key']}")
        settled[sample] = row
    failed = {sample for row in rows["failed"] if (sample := _sample_of(row)) is not None}
    seen = settled.keys() | failed
    if (seen - wanted) if accept else (seen != wanted):
        raise Broken(f"missing: {wanted - settled.keys() - failed}, strange: {(settled.keys() | failed) - wanted}")
    return settled


def _serial(row: dict[str, Any]) -> int:
    match = _SERIAL.search(row["response_id"] or row["refusal"] or "")
    if match is None:
        raise Broken(f"a row without a reply: {row}")
    return int(match[1])


def _check_accepted(
    services: Services, series: set[Sample], rows: dict[str, list[dict[str, Any]]], summary: Summary
) -> None:
    """Each series, known by its sample 0, has as many accepted answers as wanted, or all its samples; and no more."""
    ask, history = services.recipe.ask, services.history
    assert ask.accept is not None
    by_series: dict[Sample, dict[int, dict[str, Any]]] = {first: {} for first in series}
    for row in [*rows["failed"], *rows["rejected"], *rows["data"]]:
        if (sample := _sample_of(row)) is not None:
            by_series[sample[0], sample[1] // SEEDS_APART * SEEDS_APART][sample[1] % SEEDS_APART] = row
    short = 0
    for prompt, mine in by_series.items():
        accepted = sorted(n for n, row in mine.items() if _is_accepted(row, selects=services.recipe.select is not None))
        texts = {mine[n]["completion"][0]["content"] for n in accepted}
        most = ask.accept if services.recipe.select is None else ask.most_samples
        if len(texts) != len(accepted) or len(accepted) > most:
            raise Broken(f"{prompt} has the accepted answers {[mine[n] for n in accepted]}")
        if any(check.regex for check in services.recipe.checks) and not all(text[-1] in "01" for text in texts):
            raise Broken(f"{prompt} has answers that the check rejects: {texts}")
        if len(accepted) < ask.accept and len(mine) < ask.most_samples:
            raise Broken(
                f"{prompt}: of {ask.most_samples} samples only {sorted(mine)} were asked, {accepted} are accepted"
            )
        short += len(accepted) < ask.accept
        _check_fewest(history, prompt, mine, accepted, accept=ask.accept)
    if summary.short != short:
        raise Broken(f"{short} prompts are short, the summary says {summary.short}")


def _is_accepted(row: dict[str, Any], *, selects: bool) -> bool:
    is_left = selects and row.get("reject_reason") == "not_selected"
    return is_left or row["_key"].startswith("data/")


def _check_selected(services: Services, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Check that the records of a series agree if it was voted on, and that only one best answer is kept."""
    select = services.recipe.select
    if select is None:
        return
    kept: defaultdict[Sample, list[dict[str, Any]]] = defaultdict(list)
    for row in rows["data"]:
        if (sample := _sample_of(row)) is not None:
            kept[sample[0], sample[1] // SEEDS_APART].append(row)
    for series, mine in kept.items():
        said = {(row["completion"][0]["content"], row.get("vote_share")) for row in mine}
        if len(said) > 1 or (select.best_of is not None and len(mine) > select.best_of.keep):
            raise Broken(f"{series} keeps {said}")


def _check_fewest(
    history: History, series: Sample, mine: dict[int, dict[str, Any]], accepted: list[int], *, accept: int
) -> None:
    """Check that the samples asked are the first ones, and that the last of them was still needed."""
    if sorted(mine) != list(range(len(mine))):
        raise Broken(f"{series}: the samples {sorted(mine)} were asked")
    chunks = {_CHUNK.search(row["_key"])[0] for row in mine.values()}  # type: ignore[index] # every file is of a chunk
    if len(accepted) == accept and len(chunks) == 1 and history.undisturbed and max(mine) != max(accepted):
        raise Broken(f"{series}: {accepted} are accepted, and {max(mine)} was asked")
    prompt, first = series
    sent = {sample for sample in history.by_sample if (sample[0], sample[1] // SEEDS_APART * SEEDS_APART) == series}
    if history.faithful and (unknown := sent - {(prompt, first + number) for number in mine}):
        raise Broken(f"{unknown} were asked, and have no row")


def _check_answers(history: History, settled: dict[Sample, dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    """Every answer that was kept is stored, but where another of its sample is and it was lost with an excuse."""
    stored = {
        sample: int(match[1])
        for row in failed
        if row["kind"] == "unchecked"
        and (sample := _sample_of(row)) is not None
        and (match := _SERIAL.search(row["body_head"]))
    }
    stored |= {sample: _serial(row) for sample, row in settled.items()}
    for sample, serial in stored.items():
        request = history.requests[serial]
        row = settled.get(sample)
        if row is not None and row["teacher"] != request.teacher:
            raise Broken(f"{sample} is stored as {row['teacher']}'s, and r{serial} asked {request.teacher}")
        if request.sample != sample or request.fate not in SETTLING or not request.copies:
            raise Broken(f"{sample} is stored with r{serial}, which is {request.fate} for {request.sample}")
    for sample, requests in history.by_sample.items():
        if requests[0].teacher == JUDGE:  # its verdicts are in the rows of the answers
            continue
        kept = [request for request in requests if request.fate in SETTLING and request.copies]
        if sample not in stored:  # whoever sealed its chunk did not need it: other samples of its prompt tell why
            of_prompt = itertools.chain(*(mine for other, mine in history.by_sample.items() if other[0] == sample[0]))
            kept = [request for request in of_prompt if request.fate in SETTLING and request.copies]
        for request in kept:
            if request.sample != sample:
                continue
            if stored.get(sample) != request.serial and not _excused(history, request, kept):
                raise Broken(f"r{request.serial}, the answer to {sample}, is not stored: {stored.get(sample)} is")


def _check_attempts(history: History, rows: dict[str, list[dict[str, Any]]], summary: Summary) -> None:
    """Every attempt is counted, and those whose reply never came; one more at most for each worker that died."""
    if not history.faithful:
        return
    stored: Counter[Sample] = Counter()
    for row in itertools.chain(*rows.values()):
        if (sample := _sample_of(row)) is not None:
            stored[sample] += row["attempts"]
    for sample, sent in history.attempts.items():
        if not sent <= stored[sample] <= sent + history.deaths:
            raise Broken(f"{sample} was asked {sent} times, stored are {stored[sample]} attempts")
    unanswered = sum(request.fate in UNANSWERED and request.teacher != JUDGE for request in history.requests)
    too_many = summary.maybe_billed > unanswered and not history.disk_full
    if history.undisturbed and (summary.maybe_billed < unanswered or too_many):
        raise Broken(f"{unanswered} requests got no answer, the summary says {summary.maybe_billed}")


def _excused(history: History, request: Request, kept: list[Request]) -> bool:
    """It was lost as it may be, or came after another worker had asked for it."""
    others = [other for other in kept if other is not request]
    return (
        request.serial in history.lost
        # Another came to light again: it lay on a disk whose node had no worker for a while, and was received first.
        or any(other.serial in history.lost for other in others)
        or history.went_unseen(request)
        or any(
            other.sent_at <= (request.kept_at or 0.0) and (history.upheaval or _ever_apart(other, request))
            for other in others
        )
    )


def _ever_apart(one: Request, other: Request) -> bool:
    return one.process is not other.process and (one.process.disturbed or other.process.disturbed)


def _check_summary(summary: Summary, rows: dict[str, list[dict[str, Any]]], *, wanted: int) -> None:
    counted = {kind: sum(row["record_id"] is not None for row in rows[kind]) for kind in ("data", "rejected")}
    said = (summary.state, summary.records, summary.rejected, summary.remaining)
    if said != ("done", counted["data"], counted["rejected"], 0):
        raise Broken(f"the summary says {said}, stored are {counted}")
    if summary.records + summary.rejected + summary.failed + summary.not_needed != wanted:
        raise Broken(f"{summary} does not add up to {wanted}")
