"""Ways to run calls: the contract that each fulfils, `Backend`, and the built-in ones, a file each."""

from taskrun.backends.base import Backend, Capabilities

__all__ = ["Backend", "Capabilities"]
