"""Stillhouse compared with bare scripts: cost of a request, duration of a run, memory of a worker."""
