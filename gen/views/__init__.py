"""What reads a dataset: its summary, report, card and verification, and what a run would do."""
