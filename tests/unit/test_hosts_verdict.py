"""The judge of runs on two hosts: what counts as the fullest second."""

from hosts.verdict import Ask, most_in_second, most_within

EVENLY = [Ask("t", "k", "p", at / 40, at / 40 + 1.0) for at in range(200)]


def test_a_stalled_teacher_makes_no_full_second() -> None:
    """What it found in its sockets after half a second came evenly; its own clock alone would say otherwise."""
    stalled = [Ask(a.token, a.key, a.peer, _late(a.at), _late(a.at + 1.0)) for a in EVENLY]
    assert most_within(stalled, 1.0) == 59
    assert most_in_second(stalled) <= 45


def _late(at: float) -> float:
    return 3.5 if 3.0 < at < 3.5 else at


def test_a_burst_is_a_full_second() -> None:
    """Twenty at once, while the teacher sees others before and after."""
    burst = sorted([*EVENLY, *(Ask("t", "k", "p", 3.01, 4.0) for _ in range(20))], key=lambda ask: ask.at)
    assert most_in_second(burst) == 60
