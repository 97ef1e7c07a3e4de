"""Token buckets, latencies and the drawing of faults."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat
from stillhouse.gen.simulator.draws import draw, lognormal, unit
from stillhouse.gen.simulator.faults import pick
from stillhouse.gen.simulator.limits import Limits, Refusal, go_duration
from stillhouse.schemas.simulator import HangFault, ResetFault, SimulatorLimits, StatusFault


def admit(limits: Limits, now_s: float, *, prompt: int = 10, output: int = 10, in_flight: int = 0) -> Refusal | None:
    """Ask for one request's worth."""
    return limits.admit(prompt_tokens=prompt, completion_tokens=output, in_flight=in_flight, model="m", now_s=now_s)


arrivals = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=200)


@given(arrivals, st.integers(30, 3000), st.integers(600, 60_000), st.floats(0.5, 10))
def test_no_window_admits_more_than_rate_and_burst(
    gaps: list[tuple[float, int, int]], per_minute: int, tokens_per_minute: int, burst_s: float
) -> None:
    """Requests and input never exceed it in any window; output by one answer at most."""
    limits = Limits(
        SimulatorLimits(
            requests_per_minute=per_minute,
            input_tokens_per_minute=tokens_per_minute,
            output_tokens_per_minute=tokens_per_minute,
            burst_s=burst_s,
            token_burst_s=burst_s,
        ),
        slot_s=1,
        now_s=0,
    )
    now_s, admitted = 0.0, list[tuple[float, int, int]]()
    for gap_s, prompt, output in gaps:
        now_s += gap_s
        if admit(limits, now_s, prompt=prompt, output=output) is None:
            admitted.append((now_s, prompt, output))
    burst = max(1, per_minute / 60 * burst_s)
    token_burst = max(1, tokens_per_minute / 60 * burst_s)
    for first in range(len(admitted)):
        window = admitted[first:]
        lasted_s = window[-1][0] - window[0][0]
        assert len(window) <= burst + per_minute / 60 * lasted_s + 1e-6
        room = token_burst + tokens_per_minute / 60 * lasted_s + 1e-6
        # A prompt larger than the bucket is let in when the bucket is full, and leaves a debt like an answer's.
        assert sum(prompt for _, prompt, _ in window[:-1]) <= room
        assert sum(output for _, _, output in window[:-1]) <= room


def test_a_refusal_states_a_wait_after_which_requests_are_admitted() -> None:
    """The time that a 429 names is enough, and no refusal takes anything."""
    limits = Limits(SimulatorLimits(requests_per_minute=60), slot_s=1, now_s=0)
    assert admit(limits, 0) is None
    for _ in range(5):
        refusal = admit(limits, 0.25)
        assert refusal is not None
        assert refusal.retry_after_s == pytest.approx(0.75)
        assert "Limit 60" in refusal.message
        assert "try again in 750ms" in refusal.message
    assert admit(limits, 1.0) is None


def test_output_tokens_leave_a_debt() -> None:
    """600 tokens at 60 a minute: nothing for ten minutes, less the burst."""
    limits = Limits(SimulatorLimits(output_tokens_per_minute=60, token_burst_s=10), slot_s=1, now_s=0)
    assert admit(limits, 0, output=600) is None
    refusal = admit(limits, 0)
    assert refusal is not None
    assert refusal.kind == "tokens"
    assert refusal.retry_after_s == pytest.approx(591)
    assert admit(limits, 591.001) is None


def test_a_total_limit_counts_input_and_output() -> None:
    """Prompt and answer come out of one bucket; the third request's prompt would still fit, its answer would not."""
    limits = Limits(SimulatorLimits(total_tokens_per_minute=600, token_burst_s=10), slot_s=1, now_s=0)
    assert [admit(limits, 0, prompt=20, output=20) is None for _ in range(4)] == [True, True, False, False]


def test_in_flight_is_a_hard_bound() -> None:
    """As many as declared, not one more."""
    limits = Limits(SimulatorLimits(in_flight=3), slot_s=0.5, now_s=0)
    assert admit(limits, 0, in_flight=2) is None
    refusal = admit(limits, 0, in_flight=3)
    assert refusal is not None
    assert refusal.retry_after_s == 0.5


def test_limits_may_be_unannounced() -> None:
    """As some providers do."""
    limits = Limits(SimulatorLimits(requests_per_minute=60, headers=False), slot_s=1.0, now_s=0.0)
    assert limits.levels(0.0) == []


def test_headers_state_the_limits() -> None:
    """OpenAI's names, the reset as Go writes a duration."""
    limits = Limits(SimulatorLimits(requests_per_minute=600, output_tokens_per_minute=60_000), slot_s=1, now_s=0)
    admit(limits, 0, output=10_000)
    assert OpenAIChat().headers(7, limits.levels(0.05), now=0.0) == {
        "x-request-id": "req_7",
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "50ms",
        "x-ratelimit-limit-tokens-generated": "60000",
        "x-ratelimit-remaining-tokens-generated": "0",
        "x-ratelimit-reset-tokens-generated": "9.95s",
    }
    assert Limits(SimulatorLimits(), slot_s=1, now_s=0).levels(0) == []


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (6.25, "6.25s"), (360, "6m0s")])
def test_resets_are_go_durations(seconds: float, text: str) -> None:
    """The provider's notation."""
    assert go_duration(seconds) == text


def test_latency_is_lognormal() -> None:
    """The median is the one set, and the spread moves the tail; without a spread all are equal."""
    drawn = [lognormal(draw(0, serial, stream=0)[1], median=2.0, sigma=0.5) for serial in range(4000)]
    assert median(drawn) == pytest.approx(2.0, rel=0.05)
    assert sorted(drawn)[3800] == pytest.approx(2.0 * 2.276, rel=0.1)
    assert lognormal(5, median=2.0, sigma=0) == 2.0
    assert 0 < lognormal(0, median=1, sigma=5) < lognormal(2**64 - 1, median=1, sigma=5)


def test_faults_divide_the_requests() -> None:
    """Each fault gets its share; the other requests are served."""
    faults = (StatusFault(share=0.2), HangFault(share=0.1))
    found = [pick(faults, chance=unit(draw(3, serial, stream=0)[0]), uptime_s=0, number=0) for serial in range(5000)]
    assert found.count(faults[0]) == pytest.approx(1000, abs=120)
    assert found.count(faults[1]) == pytest.approx(500, abs=90)


def test_faults_are_limited_in_time() -> None:
    """Outside its window a fault takes nothing from those after it."""
    storm, always = StatusFault(start_s=1, stop_s=2), ResetFault()
    assert [pick((storm, always), chance=0.5, uptime_s=at, number=0) for at in (0.9, 1.0, 1.9, 2.0)] == [
        always,
        storm,
        storm,
        always,
    ]


def test_a_fault_may_last_from_one_request_to_another() -> None:
    """However fast they come."""
    early, late = StatusFault(stop_request=2), ResetFault(start_request=3)
    found = [pick((early, late), chance=0.5, uptime_s=0, number=number) for number in range(5)]
    assert found == [early, early, None, late, late]
