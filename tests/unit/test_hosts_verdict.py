"""The judge of runs on two hosts: what counts as the fullest second."""

from hosts.verdict import Ask, Story, as_sent, most_in_second, most_within

EVENLY = [Ask("t", "k", "p", at / 40, at / 40 + 1.0) for at in range(200)]


def test_a_stalled_teacher_gives_no_full_second() -> None:
    """What it found in its sockets had arrived evenly over half a second; its own clock alone would say otherwise."""
    stalled = [Ask(a.token, a.key, a.peer, _late(a.at), _late(a.at + 1.0)) for a in EVENLY]
    assert most_within(stalled, 1.0) == 59
    assert most_in_second(stalled) <= 45


def _late(at: float) -> float:
    return 3.5 if 3.0 < at < 3.5 else at


def test_a_burst_is_a_full_second() -> None:
    """Twenty at once, while the teacher sees others before and after."""
    burst = sorted([*EVENLY, *(Ask("t", "k", "p", 3.01, 4.0) for _ in range(20))], key=lambda ask: ask.at)
    assert most_in_second(burst) == 60


def test_requests_held_by_a_cut_hosts_kernel_count_when_sent() -> None:
    """A burst once the link is back is one only if the host asked then."""
    held = [Ask(f"t{n}", "k", "cut", 4.0, 4.5) for n in range(20)]
    asks = sorted([*EVENLY, *held], key=lambda ask: ask.at)
    story = Story(heals=[("cut", 3.9)])
    sent = as_sent(asks, story, {ask.token: -5.0 - n for n, ask in enumerate(held)})
    assert most_in_second(sent) == 40
    assert as_sent(asks, story, {ask.token: 3.95 for ask in held}) == asks
    assert as_sent(asks, Story(heals=[("p", 3.9)]), {ask.token: -5.0 for ask in held}) == asks
