"""Recorded replies, sources and recipes; see README.md beside this file, and `__main__` for all replies in one run."""
