"""`stillhouse verify`: checks every promise against the stored files, and repairs what can be repaired."""

from stillhouse.gen.views.verify.checks import verify
from stillhouse.gen.views.verify.findings import Report, render
from stillhouse.gen.views.verify.repair import verify_and_repair

__all__ = ["Report", "render", "verify", "verify_and_repair"]
