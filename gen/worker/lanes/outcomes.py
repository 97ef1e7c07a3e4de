"""What an outcome means for the counters, for the account's limits, and for the user."""

from collections import Counter

from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.limits.shares import Cost
from stillhouse.gen.limits.stated_wait import Asked
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.distillation import ADVICE, MAX_SHARE, Watch
from stillhouse.gen.teachers.endpoints import Endpoint
from stillhouse.gen.teachers.given_scores import GivenScores
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    NoConnection,
    Outcome,
    Overload,
    Ramp,
    Rate,
    ServerError,
    Trouble,
    kind_of,
)
from stillhouse.gen.teachers.refused_parameters import refused_parameter
from stillhouse.gen.teachers.token_scores import TokenScores
from stillhouse.schemas.completion import Completion, Scores

LACKING = 3
"""How many answers may lack the requested log-probabilities, or ids, before the user is warned."""

STARTING_PAUSE_S = 1.0
"""How long the account pauses after a 429 that does not say how long."""


class Outcomes:
    """Counts one teacher's outcomes."""

    def __init__(self, client: TeacherClient, *, counters: Counters) -> None:
        self._client = client
        self._counters = counters
        self._refused_parameters: set[str] = set()
        self._distillation = Watch()
        self._lacking: Counter[str] = Counter()
        """Answers without what these fields of `ask` request."""
        self._has_scored = False

    def count(
        self,
        endpoint: Endpoint,
        outcome: Outcome,
        chars: int,
        asked: Asked,
        *,
        latency_s: float,
        spared: bool,
    ) -> Cost | None:
        """Count an outcome and report it to the account; returns what the request used, None if unknown.

        `spared`: only the request is to blame, so nobody else slows down.
        """
        client, counters, account = self._client, self._counters, self._client.account
        if isinstance(outcome, Completion):
            tally = counters.of(client.teacher.name)
            tally.answered(outcome.usage, usd=client.interpreter.cost_usd(outcome), latency_s=latency_s)
            if client.interpreter.wants_logprobs:
                self._note_labels(outcome.scores)
            if not self._has_scored and isinstance(outcome.scores, GivenScores):
                self._has_scored = True
                self._note_top(outcome.scores)
            if self._distillation.alarms(outcome):
                counters.note(
                    f"teacher {client.teacher.name}: refuses more than {MAX_SHARE:.0%} of the prompts as distillation "
                    f"of its model (rejected/ has them, by refusal_category): {ADVICE}"
                )
            account.served(latency_s=latency_s, tokens=outcome.usage.output_tokens or 0, asked=asked)
            return client.learn(chars, outcome)
        counters.troubled(client.teacher.name, kind_of(outcome), _words_of(outcome))
        if isinstance(outcome, BadRequest):
            self._note_parameter(outcome)
        elif isinstance(outcome, Auth) and (words := client.clock_note) is not None:
            counters.note(f"teacher {client.teacher.name}: {words}")
        if spared:
            return Cost(0, 0)
        if isinstance(outcome, (Rate, Ramp)):
            wait_s = STARTING_PAUSE_S if outcome.retry_after_s is None else outcome.retry_after_s
            account.refused(pause_s=wait_s, ramped=isinstance(outcome, Ramp), asked=asked)
            return Cost(0, 0)
        if isinstance(outcome, NoConnection):
            if endpoint.answered and not endpoint.is_open:  # it is up, but accepts no more connections
                account.refused()
            return Cost(0, 0)
        if not isinstance(outcome, (Overload, Ambiguous)):
            account.served(latency_s=latency_s, tokens=0)
        elif not endpoint.is_open and not cut_on_the_way(
            outcome
        ):  # probes of a dead endpoint say nothing about the account's capacity
            account.refused()
        return Cost(0, 0) if isinstance(outcome, Overload) else None

    def _note_parameter(self, refusal: BadRequest) -> None:
        """Report a refused parameter the first time it is refused: the whole run may fail on it."""
        client = self._client
        name = refused_parameter(refusal, client.interpreter.ask)
        if name is not None and name not in self._refused_parameters:
            self._refused_parameters.add(name)
            self._counters.note(
                f"teacher {client.teacher.name} refuses the parameter {name} ({refusal.message}); to leave it out, "
                f"write `ask: {{{name}: null}}` for this teacher in the recipe (if the dataset already holds answers, "
                "this needs another dataset.path)"
            )

    def _note_top(self, scores: GivenScores) -> None:
        """Report how many alternatives per token the first scores came with, if fewer than asked for."""
        score, name = self._client.interpreter.ask.score, self._client.teacher.name
        if score is not None and scores.least_top < score.top:
            self._counters.note(
                f"teacher {name}: its scores come with {scores.least_top} alternatives per token, fewer than "
                f"the {score.top} asked for (ask.score.top)"
            )

    def _note_labels(self, scores: Scores | None) -> None:
        """Report once that the requested log-probabilities, or ids, are missing."""
        if scores is None:
            self._lacks("log-probabilities", "top_logprobs", "their column is null")
        elif self._client.interpreter.wants_token_ids and isinstance(scores, TokenScores) and not scores.has_ids:
            self._lacks("token ids", "token_ids", "the columns tokens and top_tokens have the tokens' bytes instead")

    def _lacks(self, what: str, name: str, instead: str) -> None:
        self._lacking[name] += 1
        if self._lacking[name] == LACKING:
            self._counters.note(
                f"teacher {self._client.teacher.name}: {what} were requested (ask.{name}), but {LACKING} answers came "
                f"without any: {instead}. Does this server support them for this model?"
            )


def _words_of(trouble: Trouble) -> str:
    """The trouble in words: the message, after the HTTP status unless it names one itself."""
    if trouble.status is None or "HTTP" in trouble.message:
        return trouble.message
    return f"HTTP {trouble.status}: {trouble.message}"


def served_by(outcome: Outcome, endpoint: Endpoint) -> bool | None:
    """What an outcome says about its endpoint; see `Endpoints.done`."""
    if isinstance(outcome, Completion):
        return True
    if isinstance(outcome, Malformed) or (isinstance(outcome, BadRequest) and not endpoint.answered):
        return None  # there may be another model behind it, or no API at all
    failed = isinstance(outcome, (NoConnection, Overload, Ambiguous, ServerError))
    return not failed or cut_on_the_way(outcome)


def cut_on_the_way(outcome: Outcome) -> bool:
    """True if a gateway or the recipe's `timeout_s` cut the wait short: that says only that this answer was long."""
    return isinstance(outcome, Ambiguous) and (outcome.deadline or (outcome.status or 0) >= 400)
