"""Checks decide which answers are worth keeping, one kind per module; `pool` runs them in separate processes."""
