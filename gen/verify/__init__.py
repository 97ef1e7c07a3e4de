"""`stillhouse verify`: every promise, checked on what is stored; and what can be put right."""

from gen.verify.checks import verify
from gen.verify.findings import Report, render

__all__ = ["Report", "render", "verify"]
