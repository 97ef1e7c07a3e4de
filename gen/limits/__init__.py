"""Limits that all workers of a cluster share."""
