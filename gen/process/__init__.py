"""Settings of this program's own processes, and of those that they start."""
