"""The work of a run in one process: sources, teachers, limits, journal, shards. Never imports ray."""

import sys

# A checkout's root may be on the path; under two names every class would exist twice.
if __name__ != "stillhouse.gen":
    raise ImportError("expected `import stillhouse.gen`, got `import gen`", name=__name__)

# httpx's own command line, which it loads with rich and pygments where they are installed: a tenth of a worker's start.
# A private name, seen in httpx 0.28; without it, httpx loads them.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
