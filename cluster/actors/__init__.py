"""The actors."""

import os

# pyarrow reads this when it is imported. Arrow's own allocator keeps what the threads have freed: up to 68 MB of a
# worker, of which 12 were in use at most. The C library returns it: see `gen.large_blocks`. That costs plain answers
# nothing, and log-probabilities a fifth more CPU from a reply to Parquet (`scripts/bench labels`).
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
