"""A server that draws recorded replies at random, and what must hold of a dataset made with it."""

import json
import random
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from case_server import CaseServer, good

GOOD = "good"


@dataclass
class DrawingServer(CaseServer):
    """A share of its requests get a recorded reply at random, whatever they ask."""

    names: list[str] = field(default_factory=list)
    share: float = 0.1
    seed: int = 0
    met: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By prompt, the replies it met, in order."""
    drawn: Counter[str] = field(default_factory=Counter)
    answers: dict[str, str] = field(default_factory=dict)
    """By prompt, the good answer to it."""

    def __post_init__(self) -> None:
        """The same order of requests gives the same draws."""
        self._draw = random.Random(self.seed)
        self._deck: list[str] = []

    @staticmethod
    def names_in(folder: Path) -> list[str]:
        """The replies in a folder of cases."""
        return sorted(str(path.relative_to(folder))[: -len(".http")] for path in folder.glob("*/*.http"))

    def _name(self, path: str, prompt: str) -> str | None:
        if self._draw.random() >= self.share:
            return None
        if not self._deck:  # like cards: each reply comes once before one comes again
            self._deck = self._draw.sample(self.names, len(self.names))
        return self._deck.pop()

    def _script(self, path: str, prompt: str) -> Any:
        script = super()._script(path, prompt)
        name = GOOD if script is None else next(name for name, known in self._scripts.items() if known is script)
        self.met[prompt].append(name)
        self.drawn[name] += 1
        if script is None:
            number = len(self.asked) - 1
            self.answers[prompt] = json.loads(good(number))["choices"][0]["message"]["content"]
        return script


def rows(dataset: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(outcome, row) of each sample."""
    for folder in ("data", "rejected", "failed"):
        if (dataset / folder).exists():
            for row in ds.dataset(dataset / folder, format="parquet").to_table().to_pylist():
                yield {"data": "record"}.get(folder) or row.get("reject_reason") or row["kind"], row


def table(dataset: Path, server: DrawingServer) -> str:
    """A line for each reply: how often it was drawn, and the outcomes of the samples whose last reply it was."""
    became: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fate, row in rows(dataset):
        became[server.met[row["prompt"][-1]["content"]][-1]][fate] += 1
    lines = [f"{'reply':<52} {'drawn':>5} {'asked again':>11}  settled as"]
    for name, count in sorted(server.drawn.items()):
        settled = became[name]
        said = ", ".join(f"{fate} {number}" for fate, number in settled.most_common())
        lines.append(f"{name:<52} {count:>5} {count - settled.total():>11}  {said}")
    return "\n".join(lines)


def words(dataset: Path) -> str:
    """The Failures' messages without their numbers, and how often each occurred."""
    said = Counter((row["kind"], _alike(row["message"])) for _, row in rows(dataset) if "kind" in row)
    lines = [f"{count:>4} {kind}: {message}" for (kind, message), count in sorted(said.items())]
    return "\n".join(textwrap.fill(line, 150, subsequent_indent="       ") for line in lines)


def _alike(message: str) -> str:
    return re.sub(r"\d{4,}", "N", message)


def broken(dataset: Path, server: DrawingServer, summary: Mapping[str, Any]) -> list[str]:
    """The promises that were broken: counts add up, requests were sent, and answers were paid for once."""
    found = []
    settled = [(fate, row) for fate, row in rows(dataset)]
    counts = Counter("data" if fate == "record" else "failed" if "kind" in row else "rejected" for fate, row in settled)
    prompts = [row["prompt"][-1]["content"] for _, row in settled]
    if len(prompts) != len(set(prompts)):
        found.append(f"{len(prompts) - len(set(prompts))} samples are in the dataset more than once")
    stored = (counts["data"], counts["rejected"], counts["failed"], 0)
    said = tuple(summary.get(name) for name in ("records", "rejected", "failed", "remaining"))
    if stored != said or sum(stored) != summary.get("prompts"):
        found.append(f"the files hold {stored}, the summary says {said} of {summary.get('prompts')} prompts")
    if summary.get("requests") != len(server.asked):
        found.append(f"{len(server.asked)} requests were sent, the summary says {summary.get('requests')}")
    for fate, row in settled:
        met = server.met[row["prompt"][-1]["content"]]
        if GOOD in met[:-1]:
            found.append(f"{row['prompt_id']} was answered and asked again: {met}")
        if row["attempts"] != len(met):
            found.append(f"{row['prompt_id']} ({fate}) has {row['attempts']} attempts, {len(met)} were sent")
        if met[-1] == GOOD and row.get("completion") != [
            {"role": "assistant", "content": server.answers[row["prompt"][-1]["content"]]}
        ]:
            found.append(f"{row['prompt_id']} ({fate}) is not the answer that it was given")
        if "kind" in row and "stillhouse retry" not in row["message"]:
            found.append(f"{row['prompt_id']} does not say what to do: {row['message']}")
    return found
