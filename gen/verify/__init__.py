"""`stillhouse verify`: every promise, checked on what is stored; and what can be put right."""

from stillhouse.gen.verify.checks import verify
from stillhouse.gen.verify.findings import Report, render

__all__ = ["Report", "render", "verify"]
