"""The table of faults names every row once, and only tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = (HERE / "README.md").read_text()


def test_every_row_appears_once() -> None:
    """Rows 1 to 92."""
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)] == list(range(1, 93))


def test_named_tests_exist() -> None:
    """`file::test`, or `::test` of the file named before it."""
    file, missing = "", []
    for path, test in re.findall(r"`((?:\w+/)?test_\w+\.py)?(?:::(\w+))?[^`]*`", TABLE):
        if not path and not test:
            continue
        file = path or file
        found = next((base / file for base in (HERE, HERE.parent) if (base / file).is_file()), None)
        if found is None or (test and not re.search(rf"^(async )?def {test}\(", found.read_text(), re.MULTILINE)):
            missing.append(f"{file}::{test}")
    assert not missing
