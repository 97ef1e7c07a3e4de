"""The actors."""
