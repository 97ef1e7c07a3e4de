"""The version of the stored files, and where a file says it; apart from `arrow.py`, which loads pyarrow."""

SCHEMA_VERSION = 4
"""Grows with every change that a reader could notice."""
META_KEY = "stillhouse"
"""The key of our metadata in a stored file's footer."""
