"""Reads rows from the kinds of files that hold prompts: one module per kind."""
