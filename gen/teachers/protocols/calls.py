"""Tool calls in the one form that a Completion keeps, whatever the wire's: OpenAI's."""

import json
from typing import Any


def function_call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """One call; arguments that are not text yet are written as JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}
