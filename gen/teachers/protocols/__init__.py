"""Teacher protocols, one module each. A protocol is pure: messages to a body, a reply to an Outcome."""

from typing import Protocol

from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.protocols.openai_chat import OpenAIChat
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.recipe import Ask
from stillhouse.schemas.teacher import Teacher


class TeacherApi(Protocol):
    """One protocol, bound to a teacher and to what is asked."""

    path: str
    """Appended to an endpoint's base URL."""

    def headers(self, key: str | None) -> dict[str, str]:
        """The request's headers, with the resolved key."""
        ...

    def body(self, messages: tuple[Message, ...], sample: int) -> bytes:
        """The request's body."""
        ...

    def read(self, reply: Reply) -> Outcome:
        """The reply's outcome. Never raises, whatever a teacher sends."""
        ...


def api_of(teacher: Teacher, ask: Ask) -> TeacherApi:
    """The teacher's protocol; the simulator speaks OpenAI's."""
    return OpenAIChat(teacher, ask)
