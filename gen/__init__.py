"""The work of a run in one process: sources, teachers, limits, journal, shards. Never imports ray."""
