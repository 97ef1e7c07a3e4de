"""Definitions of recipes, prompts, records and failures. Needs no network, no cluster and no store."""

# The root of a checkout may be on the path; if the package had two names, every class would exist twice.
if __name__ != "stillhouse.schemas":
    raise ImportError("expected `import stillhouse.schemas`, got `import schemas`", name=__name__)


__version__ = "0.1.0"
