"""Columns of log-probabilities, from the bytes of replies to Arrow without an object per token.

One call of Arrow's JSON reader parses many answers. If it refuses one, or reads nulls that need a closer look, each
answer is parsed on its own. What Arrow can't read is read as Python objects, with equal results.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from stillhouse.gen.teachers.given_scores import GivenScores
from stillhouse.gen.teachers.in_pieces import holds
from stillhouse.gen.teachers.token_scores import ID_PREFIX, MAX_TOKEN_ID, TokenScores, given_bytes
from stillhouse.schemas.columns import SCORES
from stillhouse.schemas.completion import Scores

Arrays: TypeAlias = dict[str, pa.Array]
"""Values by column; one row per answer."""
ID_COLUMNS = ("prompt_ids", "completion_ids")

_PLAIN: list[tuple[str, pa.DataType]] = [("token", pa.string()), ("logprob", pa.float64()), ("id", pa.int64())]
_SPELT = [*_PLAIN, ("bytes", pa.list_(pa.uint8()))]


def _schema_of(entry: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    alternatives = ("top_logprobs", pa.list_(pa.struct(entry)))
    return pa.schema([("entries", pa.list_(pa.struct([*entry, alternatives])))])


_WITHOUT_BYTES, _WITH_BYTES = _schema_of(_PLAIN), _schema_of(_SPELT)


class _Unusual(ValueError):
    """The data must be read as Python objects."""


class _BytesWanted(Exception):
    """Some tokens have no id, and the schema left out their bytes."""


def score_columns(values: Sequence[Scores | None]) -> Arrays:
    """The columns of answers with these log-probabilities; null if there are none, or they can't be read."""
    if given := [value for value in values if isinstance(value, GivenScores)]:
        return _spread(_given(given), [isinstance(value, GivenScores) for value in values])
    return _spread(
        _columns([value for value in values if isinstance(value, TokenScores)]),
        [isinstance(value, TokenScores) for value in values],
    )


def id_column(values: Sequence[bytes | None]) -> pa.Array:
    """A column of lists of ids, from int32 in little-endian order."""
    ids = pa.array(np.frombuffer(b"".join(value for value in values if value is not None), "<i4"))
    lengths = np.array([len(value) // 4 for value in values if value is not None], np.int32)
    found = _lists(np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)]), ids)
    return _spread({"ids": found}, [value is not None for value in values])["ids"]


def _spread(columns: Arrays, there: Sequence[bool]) -> Arrays:
    """The column's values, with null where an answer has no row."""
    if all(there):
        return columns
    places = iter(range(len(there)))
    rows = pa.array([next(places) if each else None for each in there], pa.int32())
    return {name: column.take(rows) for name, column in columns.items()}


def _given(scores: Sequence[GivenScores]) -> Arrays:
    """The columns of given tokens; their ids are in columns of their own."""
    lengths = np.array([len(each.logprobs) for each in scores], np.int32)
    ends = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    tops = np.concatenate([np.diff(each.ends) for each in scores])
    top_ends = np.concatenate([np.zeros(1, np.int32), np.cumsum(tops, dtype=np.int32)])
    return {
        "token_logprobs": _lists(ends, pa.array(np.concatenate([each.logprobs for each in scores]))),
        "top_ids": _nested(ends, top_ends, pa.array(np.concatenate([each.top_ids for each in scores]))),
        "top_logprobs": _nested(ends, top_ends, pa.array(np.concatenate([each.top_logprobs for each in scores]))),
    }


def _columns(scores: Sequence[TokenScores]) -> Arrays:
    if not scores:
        return {name: pa.nulls(0, kind) for name, kind in SCORES.items()}
    try:
        return _parsed([_bytes_of(each) for each in scores], [each.token_ids for each in scores])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, _Unusual):
        if len(scores) == 1:
            return _from_objects(scores[0])
    alone = [_columns([each]) for each in scores]
    return {name: pa.concat_arrays([each[name] for each in alone]) for name in SCORES}


def _bytes_of(scores: TokenScores) -> bytes:
    if not isinstance(scores.entries, bytes):
        raise _Unusual("was parsed before")
    return scores.entries


def _parsed(entries: Sequence[bytes], given_ids: Sequence[Sequence[Any] | None]) -> Arrays:
    """Raises _Unusual, or Arrow's errors, unless all have ids, or none."""
    text = b"".join(piece for each in entries for piece in (b'{"entries":', each, b"}\n"))
    has_ids = holds(text, b'"id"') or holds(text, ID_PREFIX.encode()) or any(given_ids)
    if has_ids:
        with contextlib.suppress(_BytesWanted):
            return _with_schema(text, _WITHOUT_BYTES, entries, given_ids)
    return _with_schema(text, _WITH_BYTES, entries, given_ids)


def _with_schema(
    text: bytes, schema: pa.Schema, entries: Sequence[bytes], given_ids: Sequence[Sequence[Any] | None]
) -> Arrays:
    table = pa.json.read_json(
        pa.BufferReader(text),
        pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    lists = table["entries"].combine_chunks()
    if len(lists) != len(entries) or lists.null_count or pc.min(lists.value_lengths()).as_py() == 0:
        raise _Unusual("not a list of entries per answer")
    tokens = lists.flatten()
    alternatives = tokens.field("top_logprobs")
    tops = alternatives.flatten()
    if any(each.null_count or each.field("token").null_count for each in (tokens, tops)):
        raise _Unusual("an entry, or its token, is null or missing")
    ends = _ends(lists.value_lengths())
    top_ends = _ends(pc.fill_null(alternatives.value_lengths(), 0))
    beside = _ids_beside(given_ids, np.diff(ends))
    ids, top_ids = pc.coalesce(beside, _ids(tokens)), _ids(tops)
    known = _known(ids, ends)
    top_known = _known(top_ids, top_ends[ends]) if len(tops) else known
    if top_known and not known and (top_ends[ends[1:]] == top_ends[ends[:-1]]).any():
        raise _Unusual("an answer without alternatives, whose tokens have no ids, beside alternatives that have")
    if schema is _WITHOUT_BYTES and not (known and top_known):
        raise _BytesWanted
    return {
        "token_ids": _lists(ends, ids.cast(pa.int32())) if known else pa.nulls(len(lists), SCORES["token_ids"]),
        "token_logprobs": _lists(ends, _logprobs(tokens)),
        "top_ids": _nested(ends, top_ends, top_ids.cast(pa.int32()))
        if top_known
        else pa.nulls(len(lists), SCORES["top_ids"]),
        "top_logprobs": _nested(ends, top_ends, _logprobs(tops)),
        "tokens": pa.nulls(len(lists), SCORES["tokens"]) if known else _lists(ends, _spelt(tokens)),
        "top_tokens": pa.nulls(len(lists), SCORES["top_tokens"])
        if top_known
        else _nested(ends, top_ends, _spelt(tops)),
    }


def _ends(lengths: pa.Array) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Where each list begins, and the end of the last one."""
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int32)])


def _lists(ends: np.ndarray[Any, Any], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)


def _nested(ends: np.ndarray[Any, Any], top_ends: np.ndarray[Any, Any], values: pa.Array) -> pa.ListArray:
    return _lists(ends, _lists(top_ends, values))


def _ids_beside(given: Sequence[Sequence[Any] | None], lengths: np.ndarray[Any, Any]) -> pa.Array:
    """The ids beside the entries, one per token; null if there are none."""
    if not any(given):
        return pa.nulls(int(lengths.sum()), pa.int64())
    if any(ids is not None and not {*map(type, ids)} <= {int, type(None)} for ids in given):
        raise _Unusual("an id is not an integer")
    found = [
        pa.array(ids, pa.int64()) if ids is not None and len(ids) == length else pa.nulls(int(length), pa.int64())
        for ids, length in zip(given, lengths, strict=True)
    ]
    return pa.concat_arrays(found)


def _ids(tokens: pa.StructArray) -> pa.Array:
    """Token ids, from the token's text if that is one, else from its field; null if neither is."""
    ids, texts = tokens.field("id"), tokens.field("token")
    if len(texts) and pc.any(pc.starts_with(texts, ID_PREFIX)).as_py():
        is_id = pc.match_substring_regex(texts, rf"\A{ID_PREFIX}[0-9]{{1,10}}\z")
        digits = pc.if_else(is_id, pc.utf8_slice_codeunits(texts, len(ID_PREFIX)), pa.scalar(None, pa.string()))
        ids = pc.coalesce(digits.cast(pa.int64()), ids)
    return ids


def _known(ids: pa.Array, ends: np.ndarray[Any, Any]) -> bool:
    """True if all have an id; False if none of the answers has all ids.

    Raises:
        _Unusual: some answers have them all.
    """
    is_id = pc.fill_null(pc.and_(pc.greater_equal(ids, 0), pc.less(ids, MAX_TOKEN_ID)), False)  # noqa: FBT003
    if pc.all(is_id, min_count=0).as_py():
        return True
    if len(ends) == 2:
        return False
    missing = np.concatenate([np.zeros(1, np.int64), np.cumsum(~is_id.to_numpy(zero_copy_only=False))])
    if (missing[ends[1:]] == missing[ends[:-1]]).any():
        raise _Unusual("some answers have ids")
    return False


def _logprobs(tokens: pa.StructArray) -> pa.Array:
    logprobs = tokens.field("logprob")
    if logprobs.null_count:
        raise _Unusual("a log-probability is null, or missing")
    narrow = logprobs.cast(pa.float32(), safe=False)
    if len(narrow) and not pc.all(pc.is_finite(narrow)).as_py():
        raise _Unusual("a log-probability is not finite")
    return narrow


def _spelt(tokens: pa.StructArray) -> pa.Array:
    """Each token's bytes as the server gives them, else its text in UTF-8."""
    texts = tokens.field("token").cast(pa.binary())
    given = tokens.field("bytes")
    values = given.flatten()
    if values.null_count:
        raise _Unusual("a byte is null")
    lengths = pc.fill_null(given.value_lengths(), 0)
    if not len(values):
        return texts
    offsets = pa.array(_ends(lengths), pa.int32())
    start = values.offset
    data = values.buffers()[1].slice(start, len(values))
    raw = pa.Array.from_buffers(pa.binary(), len(given), [None, offsets.buffers()[1], data])
    return raw if pc.min(lengths).as_py() else pc.if_else(pc.equal(lengths, 0), texts, raw)


def _from_objects(scores: TokenScores) -> Arrays:
    """The columns of one answer, whose entries may be anything."""
    try:
        parts = [_flat(part) for part in scores.parts()]
        flat = {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}
    except (_Unusual, ValueError, RecursionError):
        return {name: pa.nulls(1, kind) for name, kind in SCORES.items()}
    ids, top_ids, top_ends = flat["token_ids"], flat["top_ids"], _ends(flat["tops"])
    ends = np.array([0, len(ids)], np.int32)
    known = ids.null_count == 0
    found = {
        "token_ids": _lists(ends, ids) if known else None,
        "token_logprobs": _lists(ends, flat["token_logprobs"]),
        "top_ids": _nested(ends, top_ends, top_ids)
        if (top_known := top_ids.null_count == 0 if len(top_ids) else known)
        else None,
        "top_logprobs": _nested(ends, top_ends, flat["top_logprobs"]),
        "tokens": None if known else _lists(ends, flat["tokens"]),
        "top_tokens": None if top_known else _nested(ends, top_ends, flat["top_tokens"]),
    }
    return {name: pa.nulls(1, kind) if found[name] is None else found[name] for name, kind in SCORES.items()}


def _flat(scores: TokenScores) -> Arrays:
    """By column the values of all tokens or alternatives, and how many alternatives each token has, `tops`.

    Raises:
        _Unusual: the entries can't be read.
    """
    if (rows := scores.rows()) is None:
        raise _Unusual("not entries")
    assert not isinstance(scores.entries, bytes)
    tops = [each for row in rows for each in row["top"]]
    return {
        "tops": pa.array([len(row["top"]) for row in rows], pa.int32()),
        "token_ids": pa.array([row["token_id"] for row in rows], pa.int32()),
        "token_logprobs": pa.array([row["logprob"] for row in rows], pa.float32()),
        "top_ids": pa.array([each["token_id"] for each in tops], pa.int32()),
        "top_logprobs": pa.array([each["logprob"] for each in tops], pa.float32()),
        "tokens": pa.array(map(_bytes, scores.entries), pa.binary()),
        "top_tokens": pa.array(
            (_bytes(each) for entry in scores.entries for each in entry.get("top_logprobs") or []), pa.binary()
        ),
    }


def _bytes(entry: Mapping[str, Any]) -> bytes:
    token: str = entry["token"]
    return given_bytes(dict(entry)) or token.encode()
