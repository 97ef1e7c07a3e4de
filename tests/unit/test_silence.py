"""How long a teacher that has never answered is waited for."""

from typing import Any

from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.coordination.silence import Silence
from stillhouse.gen.errors import TeacherPaused


def given_up_at(*moments: dict[str, int], give_up_after_s: float = 600.0, **fields: Any) -> float | None:
    """When a teacher with these totals of troubles at 0, 10, 20 ... s is given up; None for never."""
    silence = Silence(give_up_after_s=give_up_after_s)
    for number, troubles in enumerate(moments):
        _, reason = silence.look({"t": Tally(troubles=troubles, said="words", **fields)}, now=10.0 * number)
        if reason is not None:
            assert isinstance(reason, TeacherPaused)
            return 10.0 * number
    return None


def rising(kind: str, count: int = 100, **others: int) -> list[dict[str, int]]:
    """One more trouble of this kind at every moment."""
    return [{kind: number + 1} | others for number in range(count)]


def test_an_unreachable_teacher_is_given_up_in_time() -> None:
    """After as long as the recipe says, counted from the first failure."""
    assert given_up_at(*rising("no_connection")) == 600.0
    assert given_up_at(*rising("overload")) == 600.0
    assert given_up_at({}, {}, *rising("no_connection"), give_up_after_s=30.0) == 50.0


def test_a_teacher_failing_every_request_is_given_up_sooner() -> None:
    """It is up, but broken; a recipe with a longer or shorter wait is honoured."""
    assert given_up_at(*rising("server_error")) == 90.0
    assert given_up_at(*rising("server_error"), give_up_after_s=20.0) == 20.0
    assert given_up_at(*rising("server_error", 400), give_up_after_s=3600.0) == 540.0
    assert given_up_at(*rising("server_error", no_connection=1)) == 600.0


def test_a_loading_or_limiting_teacher_is_waited_for() -> None:
    """As long as it says so; once it is silent, the wait starts over."""
    assert given_up_at(*rising("loading"), *rising("loading", 100, rate=1)) is None
    assert given_up_at(*({"no_connection": n, "rate": n} for n in range(100))) is None
    later = [{"loading": 30, "no_connection": n + 1} for n in range(100)]
    assert given_up_at(*rising("loading", 30), *later) == 300.0 + 600.0


def test_a_request_that_may_still_be_answered_is_waited_for() -> None:
    """Another endpoint fails meanwhile."""
    assert given_up_at(*rising("no_connection"), awaited=1) is None


def test_a_teacher_that_answered_once_is_never_given_up() -> None:
    """Not even where a restarted queue counts from nothing."""
    silence = Silence(give_up_after_s=60.0)
    silence.look({"t": Tally(answers=1)}, now=0.0)
    for number in range(100):
        assert silence.look({"t": Tally(troubles={"no_connection": number})}, now=10.0 * number) == ([], None)


def test_each_teacher_is_counted_and_quoted_separately() -> None:
    """A note once, the reason at the end; what acts on a terminal is escaped."""
    silence, notes = Silence(give_up_after_s=60.0), []
    for number in range(7):
        dead = Tally(troubles={"no_connection": number + 1}, said="can't connect to \x1b[2Jb:1 (Connection refused)")
        said, reason = silence.look({"a": Tally(answers=5), "b": dead}, now=10.0 * number)
        notes += said
    words = r"can't connect to \x1b[2Jb:1 (Connection refused)"
    assert notes == [f"no answer yet from teacher b: {words}; waiting up to 60 s"]
    assert str(reason).startswith(f"teacher b could not be reached for 60 s ({words}): start it or correct its address")


def test_other_replies_are_counted_by_kind() -> None:
    """The reason to stop names the kinds."""
    silence = Silence(give_up_after_s=10.0)
    silence.look({"t": Tally(troubles={"server_error": 1})}, now=0.0)
    tally = Tally(troubles={"server_error": 9, "overload": 2}, said="oops")
    _, reason = silence.look({"t": tally}, now=11.0)
    assert "sent only failures for 11 s (overload 2, server_error 9); the last was: oops" in str(reason)
