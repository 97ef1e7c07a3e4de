"""What a recipe, a prompt, a record and a failure are. Needs no network, no cluster and no store."""

__version__ = "0.1.0"
