"""Checks: what makes an answer worth keeping, one kind a module; `pool` runs them in processes of their own."""
