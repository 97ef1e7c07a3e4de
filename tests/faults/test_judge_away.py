"""A judge that is down for an hour, in virtual time."""

from pathlib import Path

from faults.simulation.spec import HOUR_S, Spec
from faults.simulation.teacher import JUDGE
from faults.simulation.world import World

from stillhouse.gen.views.summary import summarise


def test_answers_wait_for_a_judge_that_is_down_for_an_hour(tmp_path: Path) -> None:
    """All are judged once it is back: none stays unchecked, and no answer or verdict is requested a second time."""
    spec = Spec.calm(
        prompts=20,
        per_shard=10,
        local=True,
        nodes=1,
        workers=1,
        route="weighted",
        teachers=1,
        accept=0,
        checks=False,
        judge=True,
        outages=((JUDGE, 1.0, 1.0 + HOUR_S),),
        give_up_after_s=2 * HOUR_S,
    )
    world = World(1, tmp_path, spec=spec)
    world.run()
    history, summary = world.services.history, summarise(world.services.store)
    answers = [each for each in history.requests if each.teacher != JUDGE]
    verdicts = [each for each in history.requests if each.teacher == JUDGE]
    assert all(each.sent_at < 60.0 for each in answers), "the teacher is asked while the judge is down"
    assert all(each.sent_at > HOUR_S for each in verdicts)
    assert {len(mine) for mine in history.by_sample.values()} == {1}
    assert len(verdicts) == len(answers) == summary.records + summary.rejected > 10
    assert (summary.failed_by_kind, summary.checks[JUDGE]["t0"].unchecked) == ({}, 0)
