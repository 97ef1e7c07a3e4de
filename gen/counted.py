"""Formats counts for people."""


def counted(count: int, one: str, many: str = "") -> str:
    """The count with its noun: `1 chunk`, `1,200 chunks`; `many` if the plural is not the singular plus s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
