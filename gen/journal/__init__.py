"""Writes what was sent and what came back to disk before anything parses it."""
