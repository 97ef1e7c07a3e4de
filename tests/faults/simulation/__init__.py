"""Worlds from seeds: the real core in one process and virtual time; anything may die at any await and any write."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # which `python -m` does not

from .world import Figures, simulate

__all__ = ["Figures", "simulate"]
