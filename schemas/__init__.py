"""What a recipe, a prompt, a record and a failure are. Needs no network, no cluster and no store."""

# A checkout's root may be on the path; under two names every class would exist twice.
if __name__ != "stillhouse.schemas":
    raise ImportError("expected `import stillhouse.schemas`, got `import schemas`", name=__name__)


__version__ = "0.1.0"
