"""Stillhouse beside bare scripts: what a request costs, how long a run takes, how much memory a worker needs."""
