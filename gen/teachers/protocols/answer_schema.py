"""The schema of an answer in the form of OpenAI's APIs and the many servers like them."""

from collections.abc import Iterator
from typing import Any

from stillhouse.gen.teachers.protocols.profiles import profile_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.schema_dialects import strict_fault
from stillhouse.schemas.teacher import Teacher

NAME = "answer"
"""A schema's name in a request, which the APIs require."""
_LIKE_OPENAI = ("openai-chat", "openai-responses", "vllm", "sglang", "simulator")


def named_schema(teacher: Teacher, ask: Ask) -> dict[str, Any] | None:
    """The schema with its name, `strict` if it keeps the rules for that; None if there is nothing to send.

    A response format in `extra` takes precedence.
    """
    document, profile = ask.schema_document, profile_of(teacher)
    if document is None or not profile.takes_schema or "response_format" in ask.extra:
        return None
    is_strict = strict_fault(document) is None and profile.strict_models in teacher.model_name
    schema = {name: value for name, value in document.items() if name != "$schema"}
    return {"name": NAME, "schema": schema, "strict": is_strict}


def schema_notes(recipe: Recipe) -> Iterator[str]:
    """Notes on the parts of answer schemas that teachers are not sent."""
    for teacher in recipe.teachers:
        document, profile = recipe.ask.of(teacher).schema_document, profile_of(teacher)
        if document is None or teacher.api not in _LIKE_OPENAI:
            continue
        if not profile.takes_schema:
            yield (
                f"teacher {teacher.name}: its API takes no schema, so none is sent: describe the answer's form in "
                "the prompt. Answers are checked anyway"
            )
        elif profile.minds_strict and (fault := strict_fault(document)) is not None:
            yield (
                f"teacher {teacher.name}: the schema is sent without `strict`, because {fault}; so the API follows "
                "it as well as it can. Answers are checked anyway"
            )
