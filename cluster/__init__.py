"""Runs the work on Ray: shared actors, the driver and the command line."""

import os
import sys

# The root of a checkout may be on the path; if the package had two names, every class would exist twice.
if __name__ != "stillhouse.cluster":
    raise ImportError("expected `import stillhouse.cluster`, got `import cluster`", name=__name__)

if sys.version_info < (3, 11):  # noqa: UP036 - a job's code is shipped to whatever Python its cluster has
    print(
        f"stillhouse: expected Python 3.11 or newer on the cluster, found {sys.version.split()[0]}; update its image",
        file=sys.stderr,
    )
    sys.exit(2)

# Ray reads these when it is imported. Under `uv run`, the driver would start every worker through `uv run` too.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # older versions warn about it; we don't use it
if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # a token is meant to be used
