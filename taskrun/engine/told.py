"""What one worker was sent and told beside its tasks, so that it is told once."""

from __future__ import annotations

from taskrun.shipping import Shipped

__all__ = ["Told"]


class Told:
    """What a worker has and knows. The I/O thread's."""

    __slots__ = ("authkey", "functions", "path", "root", "shipped")

    def __init__(self) -> None:
        self.functions: dict[int, int] = {}
        """Those it has: slot number -> version."""
        self.shipped = Shipped()
        """What tasks refer to and it has."""
        self.root: int | None = None
        """The seed that the tasks it was sent derive theirs from."""
        self.authkey: bytes | None = None
        """multiprocessing's key, once it was told of it: there is none before somebody loads that."""
        self.path: list[str] | None = None
        """The `sys.path` it was last told of."""
