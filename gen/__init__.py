"""The work of a run in one process: sources, teachers, limits, journal, shards. Never imports ray."""

import sys

# The root of a checkout may be on the path; if the package had two names, every class would exist twice.
if __name__ != "stillhouse.gen":
    raise ImportError("expected `import stillhouse.gen`, got `import gen`", name=__name__)

# httpx loads its own command line, with rich and pygments if installed: a tenth of a worker's start. The name is
# private, seen in httpx 0.28; without it, httpx loads them.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
