"""Worlds from seeds: the real core in one process and virtual time; anything may die at any await and any write."""

from .world import Figures, simulate

__all__ = ["Figures", "simulate"]
