"""The message that the events of Anthropic's stream add up to."""

from collections.abc import Sequence
from typing import Any

from stillhouse.gen.teachers.event_stream import UNREADABLE
from stillhouse.gen.teachers.protocols.reply_document import HAS_BEGUN


def folded(events: Sequence[Any]) -> dict[str, Any] | None:
    """The message, or the error that came instead; None if the stream is incomplete.

    It is complete with its end marker, or once there is a stop reason and every block has ended.
    """
    message: dict[str, Any] | None = None
    blocks: dict[int, _Block] = {}
    for event in events:
        if event is UNREADABLE:
            break
        match event:
            case {"type": "error", "error": dict(error)}:
                if (whole := _finished(message, blocks)) is not None:
                    return whole
                usage = _object(_object(message).get("usage"))
                return {"type": "error", "error": error, HAS_BEGUN: bool(blocks), "usage": usage}
            case {"type": "message_start", "message": dict(started)}:
                message = dict(started)
            case {"type": "content_block_start", "index": int(index), "content_block": dict(start)}:
                blocks[index] = _Block(start)
            case {"type": "content_block_delta", "index": int(index), "delta": dict(delta)} if index in blocks:
                blocks[index].add(delta)
            case {"type": "content_block_delta"}:
                if not _begun(event, blocks):
                    break
            case {"type": "content_block_stop", "index": int(index)} if index in blocks:
                blocks[index].has_ended = True
            case {"type": "message_delta"} if message is not None:
                # Its counts replace those of the start, which it may repeat in part.
                usage = _object(message.get("usage")) | _object(event.get("usage"))
                message |= _object(event.get("delta")) | {"usage": usage}
            case {"type": "message_stop"} if message is not None:
                return _whole(message, blocks)
            case _:
                pass  # pings, and unknown events
    return _finished(message, blocks)


def _whole(message: dict[str, Any], blocks: "dict[int, _Block]") -> dict[str, Any]:
    return message | {"content": [blocks[index].whole() for index in sorted(blocks)]}


def _finished(message: dict[str, Any] | None, blocks: "dict[int, _Block]") -> dict[str, Any] | None:
    """The message without its end marker, which proxies drop; None if more of it was to come."""
    if message is None or not message.get("stop_reason") or not all(block.has_ended for block in blocks.values()):
        return None
    return _whole(message, blocks)


def _begun(event: dict[str, Any], blocks: "dict[int, _Block]") -> bool:
    """Begin the block of a delta whose start is missing; False if it is unknown which block, or what is called."""
    index, delta = event.get("index"), event.get("delta")
    if not isinstance(index, int) or not isinstance(delta, dict):
        return False
    kinds = {"text": "text", "thinking": "thinking", "signature": "thinking"}
    kind = next((kinds[name] for name in kinds if isinstance(delta.get(name), str)), None)
    if kind is None:
        return False
    blocks[index] = _Block({"type": kind, kind: ""})
    blocks[index].add(delta)
    return True


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class _Block:
    """A block of content as its deltas arrive."""

    def __init__(self, block: dict[str, Any]) -> None:
        self._block = dict(block)
        self._pieces: dict[str, list[str]] = {}
        self.has_ended = False

    def add(self, delta: dict[str, Any]) -> None:
        """One delta."""
        for name in ("text", "thinking", "signature", "partial_json"):
            if isinstance(piece := delta.get(name), str):
                self._pieces.setdefault(name, []).append(piece)

    def whole(self) -> dict[str, Any]:
        """The block at its end. A tool's input stays text: rewriting it would change large numbers."""
        block = self._block
        for name, pieces in self._pieces.items():
            if name != "partial_json":
                start = block.get(name)
                block[name] = (start if isinstance(start, str) else "") + "".join(pieces)
        if text := "".join(self._pieces.get("partial_json", ())):
            block["input"] = text
        return block
