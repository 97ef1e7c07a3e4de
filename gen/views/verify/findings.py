"""The findings of `verify`: values with a kind, so that code that acts on them does not parse their text."""

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, computed_field

from stillhouse.gen.counted import counted
from stillhouse.gen.inert import inert

FindingKind: TypeAlias = Literal[
    "recipe",
    "budget",
    "plan",
    "index",
    "gone",
    "disk",
    "unreadable",
    "version",
    "schema",
    "metadata",
    "identity",
    "counts",
    "side_file",
    "raw_file",
    "samples",
    "selection",
    "record_ids",
    "twice",
    "unknown_chunk",
    "foreign",
    "unfinished",
    "leftover",
]
"""The last two are not damage: chunks that are not sealed yet, and what a crash left behind."""

HARMLESS: frozenset[FindingKind] = frozenset(("unfinished", "leftover"))


class Finding(BaseModel):
    """One thing that is not as promised, or not as tidy as it could be."""

    model_config = ConfigDict(frozen=True)

    kind: FindingKind
    key: str
    """The object that it is about, relative to the dataset."""
    message: str
    """What was expected, what was found, and what can be done."""
    repaired: bool = False


class Checked(BaseModel):
    """How much was checked."""

    model_config = ConfigDict(frozen=True)

    generations: int = 0
    index_parts: int = 0
    source_rows: int = 0
    chunks: int = 0
    """Chunks that the index knows."""
    shards: int = 0
    side_files: int = 0
    records: int = 0
    rejected: int = 0
    """Rows, including those of duplicate prompts."""
    duplicates: int = 0
    """The rows of duplicate prompts, which were never asked."""
    failed: int = 0
    """Rows, including bad source rows."""
    bad_rows: int = 0
    """The bad source rows, which were never asked."""


class Report(BaseModel):
    """The result of `stillhouse verify`."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    checked: Checked
    findings: tuple[Finding, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """True if every promise holds for what is stored now: no damage, or none that was not repaired."""
        return all(finding.repaired or finding.kind in HARMLESS for finding in self.findings)


def render(report: Report) -> str:
    """The findings as text."""
    checked = report.checked
    lines = [
        f"{'sound' if report.ok else 'DAMAGED'}: {inert(report.dataset)}",
        f"  checked shards {checked.shards:,} of {checked.chunks:,}, generations {checked.generations:,}, "
        f"side files {checked.side_files:,}, parts of the index {checked.index_parts:,}",
        f"  rows    {counted(checked.records, 'record')}, {checked.rejected:,} in rejected/"
        f"{_of_which(checked.duplicates, 'duplicate prompt')}, {checked.failed:,} in failed/"
        f"{_of_which(checked.bad_rows, 'bad row')}, {checked.source_rows:,} of the source",
    ]
    for finding in sorted(report.findings, key=lambda finding: finding.kind in HARMLESS):
        mark = "repaired" if finding.repaired else "note" if finding.kind in HARMLESS else "damage"
        lines.append(f"  {mark}: {finding.kind}: {inert(finding.key)}: {inert(finding.message)}")
    return "\n".join(lines)


def _of_which(count: int, noun: str) -> str:
    return f" ({counted(count, noun)})" if count else ""
