"""Suggests an existing path for one that does not exist."""

import difflib
import os
from itertools import islice
from pathlib import Path

_MAX_ENTRIES = 10_000
"""Maximum number of names compared in a folder, so that advice about a typing error never takes long."""


def near_path(path: str) -> str:
    """`; did you mean out/prompts.jsonl?` if the same folder holds a similar name; otherwise empty."""
    asked = Path(path)
    try:
        with os.scandir(asked.parent) as entries:
            names = [entry.name for entry in islice(entries, _MAX_ENTRIES)]
    except (OSError, ValueError):
        return ""
    there = {name.casefold(): name for name in names if name != asked.name}  # a link may lead nowhere
    close = difflib.get_close_matches(asked.name.casefold(), there, n=1, cutoff=0.7)
    return f"; did you mean {asked.with_name(there[close[0]])}?" if close and asked.name else ""
