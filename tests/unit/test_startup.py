"""Why an actor can't be started, as the driver tells it."""

import inspect

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from stillhouse.cluster.actors.prompt_queue_actor import PromptQueueActor
from stillhouse.cluster.actors.rate_limiter import RateLimiterActor
from stillhouse.cluster.actors.startup import check_started
from stillhouse.cluster.actors.teacher_worker import TeacherWorker
from stillhouse.gen.errors import StillhouseError, StoreAway, StoreRefused

HEAD = "ray::prompt-queue test 1:PromptQueueActor.__init__() (pid=1, ip=127.0.0.1)\n"


def died(text: str) -> ActorDiedError:
    """An actor's death at its creation, as Ray reports it."""
    cause = RayTaskError("PromptQueueActor.__init__", HEAD + text, cause=Exception("any"))  # type: ignore[no-untyped-call]
    return ActorDiedError(cause)


@pytest.mark.parametrize("actor", [PromptQueueActor, RateLimiterActor, TeacherWorker])
def test_an_actor_that_was_never_created_has_a_repr(actor: type) -> None:
    """Ray asks for it where the class or the arguments can't be loaded, and replaces those that are functions."""
    assert repr(object.__new__(actor)) == actor.__name__
    assert not inspect.isfunction(inspect.getattr_static(actor, "__repr__"))
    assert not inspect.isfunction(actor.__repr__)


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: The actor with name PromptQueueActor failed to import on the worker. This may be because ...\n\n"
        "Traceback (most recent call last):\nModuleNotFoundError: No module named 'orjson'\n\n",
        "  At least one of the input arguments for this task could not be computed:\n"
        "ray.exceptions.RaySystemError: System error: x\ntraceback: Traceback\n"
        "ModuleNotFoundError: No module named 'orjson'",
        "Traceback (most recent call last):\nModuleNotFoundError: No module named 'orjson'\n",  # in its __init__
    ],
)
def test_a_failed_import_is_reported_with_advice(text: str) -> None:
    """The actor, the last line of its import, and the ways out."""
    said = (
        r"PromptQueueActor can't be loaded .*\(ModuleNotFoundError: No module named 'orjson'\); .* --ship code.* image"
    )
    with pytest.raises(StillhouseError, match=said) as caught:
        check_started(died(text))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("kind", [StoreAway, StoreRefused])
def test_an_error_at_start_keeps_its_exit_code(kind: type[StillhouseError]) -> None:
    """A store that is away pauses the run, as it does where a worker finds it so."""
    with pytest.raises(kind, match=r"^s3://lake does not answer: try again$"):
        check_started(died(f"stillhouse.gen.errors.{kind.__name__}: s3://lake does not answer: try again"))


@pytest.mark.parametrize("more", ["", "\n  Extra inputs are not permitted\n    For more see https://errors.example"])
def test_any_other_error_at_start_is_reported(more: str) -> None:
    """A bug of ours ends the run too, with the line that names it."""
    with pytest.raises(StillhouseError, match=r"^PromptQueueActor can't be started: pydantic\.Error: 1 error$"):
        check_started(died(f"Traceback (most recent call last):\npydantic.Error: 1 error{more}"))


def test_an_actor_that_died_later_is_not_a_failed_start() -> None:
    """It is replaced, whatever it was that ended it."""
    check_started(ActorDiedError())
    check_started(ActorUnavailableError("it failed to import on the worker", b"0" * 16))
