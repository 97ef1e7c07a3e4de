"""Which samples may be asked now: against a model that looks at everything each time."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.worker.sample_states import AllSamples, UntilAccepted

SAMPLES, PROMPTS = 4, 3
ORDINALS = st.integers(0, SAMPLES * PROMPTS - 1)
ANSWERS = st.sampled_from([None, b"a", b"b", b"c"])
STEPS = st.one_of(
    st.just(("take",)),
    st.tuples(st.just("answered"), ORDINALS),
    st.tuples(st.just("decide"), ORDINALS, st.booleans(), ANSWERS),
    st.tuples(st.just("late"), ORDINALS, ANSWERS),
    st.tuples(st.just("reopen"), ORDINALS),
)


@dataclass
class Model:
    """One prompt, by sets alone."""

    candidates: list[int]
    need: int
    kept: set[bytes]
    out: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    decided: set[int] = field(default_factory=set)
    new: set[bytes] = field(default_factory=set)
    uncounted: int = 0

    @property
    def missing(self) -> int:
        """Accepted answers still wanted."""
        return max(0, self.need - len(self.new) - self.uncounted)

    def may_ask(self) -> list[int]:
        """The samples that may be asked now."""
        waiting = [each for each in self.candidates if each not in self.out | self.answered | self.decided]
        return waiting[: max(0, self.missing - len(self.out | self.answered))]

    def left(self) -> int:
        """What is needed and not decided."""
        return len(set(self.candidates) - self.decided) if self.missing else len(self.answered)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(STEPS, max_size=60),
    st.lists(st.integers(0, SAMPLES), min_size=PROMPTS, max_size=PROMPTS),
    st.lists(st.sets(st.integers(0, SAMPLES - 1)), min_size=PROMPTS, max_size=PROMPTS),
    st.lists(st.sets(st.sampled_from([b"a", b"b"])), min_size=PROMPTS, max_size=PROMPTS),
)
def test_requests_in_flight_equal_the_missing_accepted_answers(
    steps: list[tuple[object, ...]], needs: list[int], candidates: list[set[int]], kept: list[set[bytes]]
) -> None:
    """Whatever happens, in any order: including samples of dead owners, which were never handed out here."""
    ordinals = [[SAMPLES * number + each for each in sorted(mine)] for number, mine in enumerate(candidates)]
    states = UntilAccepted(ordinals, samples=SAMPLES, needs=needs, kept=kept)
    models = [Model(*each) for each in zip(ordinals, needs, kept, strict=True)]
    for step in steps:
        match step:
            case ("take",):
                wanted = sorted(each for model in models for each in model.may_ask())
                assert sorted(states.take()) == wanted
                for each in wanted:
                    models[each // SAMPLES].out.add(each)
                assert not states.is_ready
            case (str(kind), int(ordinal), *rest) if ordinal in models[ordinal // SAMPLES].candidates:
                _apply(states, models[ordinal // SAMPLES], kind, ordinal, rest)
        assert states.left == sum(model.left() for model in models)
        if any(model.may_ask() for model in models):
            assert states.is_ready
    for model in models:
        assert [each for each in model.candidates if states.is_first(each)] == model.candidates[: model.need]


def _apply(states: UntilAccepted, model: Model, kind: str, ordinal: int, rest: list[object]) -> None:
    match kind, *rest:
        case ["answered"] if ordinal not in model.decided:
            states.answered(ordinal)
            model.out.discard(ordinal)
            model.answered.add(ordinal)
        case ["decide", bool(accepted), bytes() | None as answer] if ordinal not in model.decided:
            states.decide(ordinal, accepted=accepted, answer=answer)
            model.out.discard(ordinal)
            model.answered.discard(ordinal)
            model.decided.add(ordinal)
            if accepted:
                _count(model, answer)
        case ["late", bytes() | None as answer] if ordinal in model.decided:
            states.decide(ordinal, accepted=True, answer=answer)
            _count(model, answer)
        case ["reopen"] if ordinal in model.decided:
            states.reopen(ordinal)
            model.decided.discard(ordinal)


def _count(model: Model, answer: bytes | None) -> None:
    if answer is None:
        model.uncounted += 1
    elif answer not in model.kept:
        model.new.add(answer)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(0, 4), st.floats(0, 1))
def test_no_more_samples_are_asked_than_needed(rng: object, accept: int, more: int, rate: float) -> None:
    """Answers come in any order; each has its fate whenever it is asked."""
    import random

    assert isinstance(rng, random.Random)
    most = accept + more
    fates = [rng.random() < rate for _ in range(most)]
    states = UntilAccepted([range(most)], samples=most, needs=[accept])
    flying: list[int] = []
    asked: list[int] = []
    while states.left:
        taken = list(states.take())
        asked += taken
        flying += taken
        assert len(flying) + sum(fates[each] for each in asked if each not in flying) <= accept
        ordinal = flying.pop(rng.randrange(len(flying)))
        states.decide(ordinal, accepted=fates[ordinal])
    least = next((n for n in range(most + 1) if sum(fates[:n]) == accept), most)
    assert asked == list(range(least))
    assert [each for each in range(most) if states.is_first(each)] == list(range(accept))
    assert not flying


def test_without_accept_each_sample_is_asked_once() -> None:
    """In order; what a generation does not ask is not."""
    states = AllSamples(6, asked=[1, 3, 4])
    assert list(states.take()) == [1, 3, 4]
    assert states.is_first(3)
    assert (states.left, states.is_ready, list(states.take())) == (3, False, [])
    states.decide(3, accepted=False)
    states.decide(3, accepted=True)
    assert states.left == 2


def test_without_accept_no_sample_is_replaced() -> None:
    """Whose verdict is awaited, as after a crash."""
    states = AllSamples(3)
    states.answered(1)
    assert (list(states.take()), states.left) == ([0, 2], 3)
    states.decide(1, accepted=False)
    assert states.left == 2
