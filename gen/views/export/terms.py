"""The terms that come with an export, in a separate file: the export's formats have no place for them."""

from typing import Any

from stillhouse.gen.views.provenance import Provenance


def terms_of(provenance: Provenance, *, dataset: str, format: str, rows: int) -> dict[str, Any]:
    """The document written beside an exported file."""
    return {
        "dataset": provenance.name,
        "exported_from": dataset,
        "format": format,
        "rows": rows,
        "teachers": [teacher.model_dump(mode="json") for teacher in provenance.teachers],
        "obligations": provenance.obligations,
        "prompts": "The prompts have their own terms, which are not known here.",
    }
