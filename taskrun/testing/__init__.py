"""For tests: of a backend, whether it owes its users nothing; of an application, what it does when tasks crash.

`BackendConformance` holds the behaviours that every backend owes, as a pytest class to inherit; `chaos` injects faults.

::

    from taskrun.testing import BackendConformance

    class TestMine(BackendConformance):
        backend = "mine"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskrun.testing.chaos import ChaosError, chaos

if TYPE_CHECKING:
    from taskrun.testing.conformance import BackendConformance

__all__ = ["BackendConformance", "ChaosError", "chaos"]


def __getattr__(name: str) -> Any:
    if name == "BackendConformance":  # needs pytest, which who only injects faults need not have
        from taskrun.testing.conformance import BackendConformance

        return BackendConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
