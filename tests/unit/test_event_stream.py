"""Server-sent events by their bytes: the same in any packets, and no comment or ping is an event."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.teachers.event_stream import UNREADABLE, Progress, events_in, is_stream

DOCUMENTS: list[Any] = [{"n": 1, "text": "é\u2028\U0001f600"}, {"n": 2}, [3], {"type": "ping", "n": 4}]
PINGS = (
    b": PROCESSING\n\n",
    b":\n\n",
    b'event: ping\ndata: {"type": "ping"}\n\n',
    b'data: {"type":"ping"}\n\n',
    b"event: keepalive\ndata: {}\n\n",
    b"event: ping\r\ndata: 1763000000\r\n\r\n",
    b"data:\n\n",
    b"\n\n",
    b"retry: 3000\n\n",
)


def stream(documents: list[Any], *, end: bytes = b"\n", field: bytes = b"data: ") -> bytes:
    """These as events."""
    return b"".join(field + json.dumps(each, ensure_ascii=False).encode() + 2 * end for each in documents)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("field", [b"data: ", b"data:", b"event: x\ndata: ", b"id: 7\ndata: "])
def test_any_line_ending_is_read(end: bytes, field: bytes) -> None:
    """With comments among them, a byte order mark before and an end marker behind."""
    events = stream(DOCUMENTS, end=end, field=field.replace(b"\n", end))
    body = b"\xef\xbb\xbf: hello" + 2 * end + events + b": bye" + 2 * end + b"data: [DONE]" + 2 * end
    assert events_in(body) == DOCUMENTS
    assert is_stream({}, body)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b'data: {"a":\ndata: 1}\n\ndata: {"b": 2}\n\n', [{"a": 1}, {"b": 2}]),
        (b'data: {"a": 1}\ndata: {"b": 2}\n', [{"a": 1}, {"b": 2}]),
        (b'data: {"a": NaN}\n\ndata: {"a": 1e999}', [{"a": None}, {"a": None}]),
        (b'data: {"a": 1}\n\n{"error": {"code": 503}}\n', [{"a": 1}, {"error": {"code": 503}}]),
        (b'data: {"a": 1}\n\n[{"error":\n {"code": 503}}]', [{"a": 1}, {"error": {"code": 503}}]),
        (b'{"error": {"code": 1}}\n\ndata: {"a": 1}\n\n<html>\n', [{"error": {"code": 1}}, {"a": 1}]),
        (b'data: {"a": 1}\n\ndata: {"a": 2', [{"a": 1}, UNREADABLE]),
        (b'data: {"a": 1}\n\n{"b": 2}\n', [{"a": 1}, UNREADABLE]),
        (b'data: {"a": "\xff"}\n\ndata: {"b": 2}', [UNREADABLE, {"b": 2}]),
        (b'data: {"a": "x\ny"}\n\ndata: {"b": 2}', [UNREADABLE, UNREADABLE, {"b": 2}]),
        (b' DATA: {"a": 1}\ndata: [PING]\ndata: {"b": [\ndata: 1]}', [{"a": 1}, {"b": [1]}]),
        (b"<html>no</html>", []),
        (b"", []),
    ],
)
def test_odd_streams_are_read_as_far_as_they_can_be(body: bytes, events: list[Any]) -> None:
    """A document over several lines, events without an empty line between, errors without `data:`, cut ones."""
    assert events_in(body) == events


@given(st.data())
def test_progress_does_not_depend_on_packet_boundaries(data: st.DataObject) -> None:
    """However the bytes are cut: an event is progress by its last packet, comments and pings never are."""
    pieces = data.draw(st.lists(st.sampled_from([*PINGS, *(stream([each]) for each in DOCUMENTS[:3])]), max_size=8))
    body = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    progress = Progress()
    brought = [
        progress.brings(body[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)
        if end > start
    ]
    assert any(brought) == any(piece not in PINGS for piece in pieces)
    assert not progress.is_done


@given(st.binary(min_size=1, max_size=300).filter(lambda text: b"\n" not in text and b"\r" not in text))
def test_every_packet_of_a_long_event_is_progress(inside: bytes) -> None:
    """An event of 64 KB in packets stalls nothing."""
    progress = Progress()
    assert progress.brings(b'data: {"choices": [{"index": 0, "delta": {"content": "')
    assert all(progress.brings(inside) for _ in range(20))
    assert progress.brings(b'"}}]}\n\n')
    assert not progress.brings(b": ping\n\n")


@pytest.mark.parametrize("packets", [[b"data: [DONE]\n\n:\n\n"], [b"da", b"ta: [DO", b"NE]"], [b"data:[DONE]\r\n\r\n"]])
def test_the_end_marker_is_found_across_packets(packets: list[bytes]) -> None:
    """And stays seen; a text that mentions it is not it."""
    progress = Progress()
    progress.brings(b'data: {"content": "data: [DONE]"}\n\n')
    before = progress.is_done
    assert not before
    for packet in packets:
        progress.brings(packet)
    assert progress.is_done
    progress.brings(b": still here\n\n")
    assert progress.is_done


def test_json_and_html_are_not_streams() -> None:
    """The bytes decide, but for Amazon's binary one."""
    assert not is_stream({"content-type": "text/event-stream"}, b'{"choices": []}')
    assert not is_stream({}, b"<html>")
    assert not is_stream({}, b"")
    assert is_stream({"content-type": "application/vnd.amazon.eventstream"}, b"\0\0\1")
