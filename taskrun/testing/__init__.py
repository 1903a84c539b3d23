"""For authors of backends: the behaviours every backend owes its users, as a pytest class to inherit.

::

    from taskrun.testing import BackendConformance

    class TestMine(BackendConformance):
        backend = "mine"
"""

from taskrun.testing.conformance import BackendConformance

__all__ = ["BackendConformance"]
