"""Views of a dataset: its summary, report, card and verification, and a preview of a run."""
