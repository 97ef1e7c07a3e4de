"""The terms that travel with an export, in a file of their own: the export's formats have no place for them."""

from typing import Any

from stillhouse.gen.views.provenance import Provenance


def terms_of(provenance: Provenance, *, dataset: str, format: str, rows: int) -> dict[str, Any]:
    """What is written beside an exported file."""
    return {
        "dataset": provenance.name,
        "exported_from": dataset,
        "format": format,
        "rows": rows,
        "teachers": [teacher.model_dump(mode="json") for teacher in provenance.teachers],
        "obligations": provenance.obligations,
        "prompts": "The prompts have terms of their own, which are not known here.",
    }
