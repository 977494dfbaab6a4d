"""The first thing a newcomer runs: a real model, real questions, and a table they can believe.

Meets the server as anybody would: as a process with a URL.
"""

from palio.demo.run import run_demo

__all__ = ["run_demo"]
