"""What one simulated world is like, drawn from its seed."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stillhouse.schemas.recipe import Recipe

from .stores import URL
from .teacher import FAULTS, JUDGE, MAX_TOKENS, PRICE, SEEDS_APART

PER_S = 10
JUDGED = {"seed": 0, "max_tokens": MAX_TOKENS}
LATENCY_S = 0.5
"""Of a calm world."""
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Spec:
    """Small, so that thousands of worlds can be tried; all that can meet in a large one can meet here."""

    local: bool
    prompts: int
    later_prompts: int
    """In a file that is added after the first run."""
    samples: int
    per_shard: int
    nodes: int
    workers: int
    in_flight: int | None
    latency_s: float
    timeout_s: float
    max_attempts: int
    ship_every_s: float
    keep_raw: bool
    strikes: int
    fault_share: float
    slow_share: float
    loss_share: float
    shuffles: bool
    """True if what is ready runs in any order."""
    retries: bool
    """True if the Failures are asked again."""
    pilot: int | None = None
    """This many of the first rows are begun alone, by a run whose driver is killed after `pilot_s`."""
    pilot_s: float = 1.0
    together: bool = False
    """True if the later file and the growth come while the first generation is open."""
    more_samples: int = 0
    """How many more are wanted then."""
    first_format_share: float = 0.0
    """Journals left and segments shipped that are in STILLJ01, as an older version's are."""
    rival_after_s: float | None = None
    """When another cluster begins to run the same recipe on the same dataset; None: there is no other."""
    per_minute: int | None = None
    """Requests that the account allows."""
    accept: int = 0
    """Accepted answers wanted of at most `samples`; 0: all samples are."""
    more_accept: int = 0
    """How many more are wanted when `more_samples` are."""
    checks: bool = False
    """True if a check decides what is accepted, and not the rules alone."""
    select: str = ""
    """What chooses among accepted answers: `majority`, `best_of`, or nothing."""
    check_s: float = 0.1
    """How long it takes."""
    check_breaks: bool = False
    """True if it can't judge some of the answers, before they are asked again."""
    budget: Mapping[str, float] | None = None
    """Of the first run; it is raised whenever it is used up."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the fates of a request."""
    route: str = "weighted"
    teachers: int = 1
    """All of one account; see `SEEDS_APART` for how their requests are distinguished."""
    judge: bool = False
    """True if a judge decides what is accepted in the end; it is billed to the teachers' account."""
    outages: tuple[tuple[str, float, float], ...] = ()
    """(a teacher's or the judge's name, from, until) when no connection to it can be made."""
    give_up_after_s: float = 600.0
    batched: int = 0
    """How many of the teachers are asked in batches."""
    batch_requests: int = 4
    """Requests in one of these, at most."""
    batches_open: int = 20
    """Batches of a teacher that may be open at once."""
    batch_troubles: float = 0.0
    """Share of calls and batches with which something goes wrong."""
    then_online: bool = field(default=False, repr=False)  # left out where worlds are drawn from the text of others
    """True if these teachers are asked online what their batches left."""
    judge_batched: bool = field(default=False, repr=False)
    """True if the judge is asked in batches."""
    loading: bool = field(default=False, repr=False)
    """True if a connection can be made in these outages, and the server says that it is loading its model."""

    @classmethod
    def drawn(cls, rng: random.Random) -> "Spec":
        """A world."""
        local = rng.random() < 0.35
        faulty = rng.choice((0.0, 0.02, 0.1))
        weights = {"answer": 1.0} | {name: faulty * rng.random() for name in FAULTS}
        weights["broke"] /= 20
        weights["hang"] /= 4
        calm = rng.random() < 0.15
        teachers = rng.choice((1, 1, 2, 3))
        route = rng.choice(("weighted", "each", "fallback", "fallback")) if teachers > 1 else "weighted"
        outages = []
        while route == "fallback" and rng.random() < 0.7:
            start_s = rng.choice((0.0, rng.uniform(0, 20), rng.uniform(0, 100)))
            outages.append((rng.choice(("t0", "t0", "t1")), start_s, start_s + rng.choice((20.0, 100.0, 400.0))))
        accept = rng.choice((0, 1, 1, 2, 3))
        spec = cls(
            local=local,
            prompts=rng.randint(1, 12),
            later_prompts=rng.choice((0, 0, 0, 3)),
            samples=rng.choice((1, 1, 2, 3)) if not accept else accept + rng.choice((0, 1, 2, 4)),
            accept=accept,
            more_accept=rng.choice((0, 0, 1)) if accept else 0,
            checks=rng.random() < 0.6,
            check_s=rng.choice((0.0, 0.1, 2.0)),
            check_breaks=rng.random() < 0.3,
            per_shard=rng.randint(1, 5),
            nodes=1 if local else rng.randint(1, 3),
            workers=rng.choice((1, 1, 2, 3)),
            in_flight=rng.choice((1, 2, 4, 8, None)),
            latency_s=rng.choice((0.05, 0.3, 1.0, 3.0)),
            timeout_s=rng.choice((5.0, 20.0, 60.0)),
            max_attempts=rng.choice((2, 3, 6)),
            ship_every_s=rng.choice((0.5, 2.0)),
            keep_raw=rng.random() < 0.8,
            strikes=0 if calm else rng.randint(1, 6),
            fault_share=0.0 if calm else rng.choice((0.0, 0.0, 0.005, 0.03)),
            slow_share=0.0 if calm else rng.choice((0.0, 0.0, 0.01, 0.1)),
            loss_share=0.0 if calm else rng.choice((0.0, 0.0, 0.002, 0.05)),
            shuffles=rng.random() < 0.5,
            retries=rng.random() < 0.3,
            pilot=rng.choice((None, None, 1, 3, 6)),
            pilot_s=rng.uniform(0.5, 8.0),
            together=rng.random() < 0.5,
            more_samples=rng.choice((0, 0, 0, 1, 2)),
            # The first format does not name the teacher, and no dataset with a chain is as old.
            first_format_share=rng.choice((0.0, 0.0, 0.5, 1.0)) * (route != "fallback"),
            weights=weights,
            route=route,
            teachers=teachers,
            outages=tuple(outages),
            give_up_after_s=rng.choice((5.0, 60.0, 600.0)),
            budget=rng.choice((None, None, {"requests": rng.randint(1, 40)}, {"usd": rng.uniform(0.2, 4.0)})),
            rival_after_s=rng.uniform(0.0, 30.0) if not local and rng.random() < 0.2 else None,
        )
        return spec.selecting(rng).loading_meanwhile()

    def selecting(self, rng: random.Random) -> "Spec":
        """The same world with a selection, if the drawn one goes with the rest."""
        select = rng.choice(("", "majority", "best_of"))
        fits = not self.accept if select == "majority" else self.checks
        return replace(self, select=select if fits else "").judging(rng)

    def judging(self, rng: random.Random) -> "Spec":
        """The same world with a judge, if one is drawn; datasets of the first format have none."""
        judged = replace(self, judge=True, first_format_share=0.0) if rng.random() < 0.4 else self
        return judged.with_hours_away(rng)

    def with_hours_away(self, rng: random.Random) -> "Spec":
        """The same world with a judge, or a teacher without a substitute, away for a while or sometimes an hour."""
        names = [JUDGE] * self.judge + ["t0"] * (self.route != "fallback")
        if not names or rng.random() < 0.8:  # such a world takes four times as long
            return self.batching()
        start_s = rng.choice((0.0, rng.uniform(0, 20), rng.uniform(0, 100)))
        away = rng.choice(names), start_s, start_s + (HOUR_S if rng.random() < 0.1 else 100.0)  # an hour costs seconds
        return replace(self, outages=(*self.outages, away)).batching()

    def batching(self) -> "Spec":
        """The same world where teachers are asked in batches, if that is drawn; all others stay as they were."""
        rng = random.Random(repr(self))
        if self.route == "fallback" or rng.random() < 0.8:  # such a world takes four times as long
            return self.judging_in_batches()
        batching = replace(
            self,
            batched=rng.randint(1, self.teachers),
            batch_requests=rng.randint(1, 6),
            batches_open=rng.choice((2, 3, 20)),
            batch_troubles=rng.choice((0.0, 0.02, 0.1)),
            first_format_share=0.0,  # which knows no batches
            then_online=rng.random() < 0.5,
        )
        return batching.judging_in_batches()

    def judging_in_batches(self) -> "Spec":
        """The same with a judge that is asked in batches, in some worlds, whether its teachers are or not."""
        rng = random.Random(f"judge {self!r}")
        if not self.judge or rng.random() < 0.7:
            return self
        judged = replace(self, judge_batched=True)
        if self.batched:
            return judged
        troubles = rng.choice((0.0, 0.02, 0.1))
        return replace(
            judged, batch_requests=rng.randint(1, 6), batches_open=rng.choice((2, 3, 20)), batch_troubles=troubles
        )

    def loading_meanwhile(self) -> "Spec":
        """The same where, in some worlds with a chain, who is away can be reached and says that it is loading."""
        rng = random.Random(f"loading {self!r}")
        return replace(self, loading=self.route == "fallback" and rng.random() < 0.4)

    @classmethod
    def calm(cls, **more: Any) -> "Spec":
        """A world in which nothing happens but what a test does."""
        calm: dict[str, Any] = {
            "local": False, "prompts": 400, "later_prompts": 0, "samples": 1, "per_shard": 50, "nodes": 2, "workers": 2,
            "in_flight": 100, "latency_s": LATENCY_S, "timeout_s": 60.0, "max_attempts": 3, "ship_every_s": 2.0,
            "strikes": 0, "fault_share": 0.0, "slow_share": 0.0, "loss_share": 0.0, "retries": False,
            "weights": {"answer": 1.0}, "per_minute": 60 * PER_S, "rival_after_s": None, "pilot": None,
            "together": True, "more_samples": 0, "first_format_share": 0.0, "select": "",
            "budget": None, "judge": False, "batched": 0, "judge_batched": False,
        }  # fmt: skip
        return replace(cls.drawn(random.Random(0)), **(calm | more))

    def recipe(self, root: Path) -> Recipe:
        """A recipe over `root/source`."""
        teacher = {
            "model": "m",
            "account": "shared",
            "terms": {"training_use": "permitted"},
            "limits": {"in_flight": self.in_flight, "requests_per_minute": self.per_minute},
            "timeout_s": self.timeout_s,
            "max_attempts": self.max_attempts,
            "price": PRICE,
        }
        size = {"max_requests": self.batch_requests, "max_open": self.batches_open}
        judging = batched = {"mode": "batch", "profile": "openai", "batch": size}
        if self.then_online:
            batched = batched | {"mode": "batch-then-online", "online_price": PRICE}
        document = {
            "name": "simulated",
            "source": {"path": str(root / "source"), "prompt": "question", "id": "id"},
            "ask": {"seed": 0, "max_tokens": MAX_TOKENS, **self.wanted()},
            "budget": self.budget,
            "checks": self._checks(),
            "select": self._select(),
            "route": self.route,
            "teachers": [
                teacher
                | {"name": f"t{place}", "base_url": f"http://t{place}/v1"}
                | ({"ask": {"seed": place * SEEDS_APART}} if self.route == "each" else {})
                | (batched if place < self.batched else {})
                for place in range(self.teachers)
            ]
            + [
                teacher
                | {"name": JUDGE, "role": "judge", "base_url": f"http://{JUDGE}/v1", "ask": JUDGED}
                | (judging if self.judge_batched else {})
            ]
            * self.judge,
            "dataset": {
                "path": str(root / "out") if self.local else URL,
                "prompts_per_shard": self.per_shard,
                "keep_raw": self.keep_raw,
            },
            "run": {"ship_every_s": self.ship_every_s, "give_up_after_s": self.give_up_after_s},
        }
        return Recipe.model_validate(document)

    def wanted(self, *, grown: bool = False) -> dict[str, int]:
        """How many answers the recipe asks for, at first or when it is `grown`."""
        samples = self.samples + grown * self.more_samples
        if not self.accept:
            return {"samples": samples}
        return {"accept": min(samples, self.accept + grown * self.more_accept), "at_most": samples}

    def _checks(self) -> list[dict[str, Any]]:
        checks: list[dict[str, Any]] = [{"length": {"min": 1}}, {"regex": {"pattern": "[01]$"}}] if self.checks else []
        judge = {"teacher": JUDGE, "template": "Score it.\n{{ prompt }}", "accept_if": ">= 2"}
        return [*checks, {"judge": judge}] if self.judge else checks

    def _select(self) -> dict[str, Any] | None:
        if not self.select:
            return None
        return {self.select: {"answer": "exact"} if self.select == "majority" else {"by": "regex.score"}}

    def write_source(self, rng: random.Random, root: Path, *, name: str, start: int, count: int) -> set[str]:
        """Write a file of this many rows, including duplicates and bad ones; returns the prompts in it."""
        lines: list[str] = []
        texts: list[str] = []
        for number in range(start, start + count):
            kind = rng.random()
            if kind < 0.08 and number:  # a source without any prompt is refused
                lines.append("{")
                continue
            text = rng.choice(texts) if kind < 0.2 and texts else f"question {number}"
            texts.append(text)
            lines.append(json.dumps({"id": f"q{number}", "question": text}))
        path = root / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))
        return set(texts)

    def words(self) -> dict[str, Any]:
        """For people."""
        return asdict(self)
