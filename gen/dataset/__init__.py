"""A dataset: its layout, plans, index and shards, and what it is bound to."""
