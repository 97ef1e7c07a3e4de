"""The work of a run in one process: sources, teachers, limits, journal, shards. Never imports ray."""

import sys

# httpx's own command line, which it loads with rich and pygments where they are installed: a tenth of a worker's start.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
