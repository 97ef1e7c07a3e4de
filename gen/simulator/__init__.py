"""The built-in teacher: an HTTP server on loopback that speaks providers' APIs, and fails on request."""

from stillhouse.gen.simulator.process import SimulatorProcess, start
from stillhouse.gen.simulator.server import Server, run_forever, serve

__all__ = ["Server", "SimulatorProcess", "run_forever", "serve", "start"]
