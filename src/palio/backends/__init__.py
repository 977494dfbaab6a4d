"""Runs models: each backend loads one kind of artifact and turns arrays into arrays.

A backend is found by name through the entry point group `palio.backends`, ours and yours alike:
docs/how-to/add-a-backend.md. It never knows a protocol, a queue or a caller, and it never settles
in silence for less than it was asked.
"""

from palio.backends.registry import find_backend, installed_backends

__all__ = ["find_backend", "installed_backends"]
