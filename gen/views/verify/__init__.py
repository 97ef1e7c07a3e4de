"""`stillhouse verify`: every promise, checked on what is stored; and what can be put right."""

from stillhouse.gen.views.verify.checks import verify
from stillhouse.gen.views.verify.findings import Report, render
from stillhouse.gen.views.verify.repair import verify_and_repair

__all__ = ["Report", "render", "verify", "verify_and_repair"]
