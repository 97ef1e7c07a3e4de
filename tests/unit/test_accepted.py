"""The tiny version of `python -m tests.accepted`."""

from pathlib import Path

from accepted import show


def test_a_run_asks_and_keeps_only_what_accept_needs(tmp_path: Path) -> None:
    """All records are right, and a budget ends the asking, or lasts, to the request."""
    assert "records, all right" in "\n".join(show(tmp_path, prompts=40))
