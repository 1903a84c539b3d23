"""What a task promises, as tests: each behaviour once, for every backend.

A backend's capabilities say where it cannot keep a promise; then the documented alternative is what is tested.
"""

from __future__ import annotations

from taskrun.testing.control import ControlBehaviours
from taskrun.testing.crashes import CrashBehaviours
from taskrun.testing.ending import EndBehaviours
from taskrun.testing.failures import FailureBehaviours
from taskrun.testing.maps import MapBehaviours
from taskrun.testing.primitives import PrimitiveBehaviours
from taskrun.testing.results import ResultBehaviours
from taskrun.testing.settings import SettingsBehaviours
from taskrun.testing.surroundings import SurroundingsBehaviours
from taskrun.testing.tiny_items import TinyItemBehaviours
from taskrun.testing.workers import WorkerBehaviours

__all__ = ["BackendConformance"]


class BackendConformance(
    ResultBehaviours,
    FailureBehaviours,
    MapBehaviours,
    TinyItemBehaviours,
    ControlBehaviours,
    SurroundingsBehaviours,
    WorkerBehaviours,
    CrashBehaviours,
    SettingsBehaviours,
    PrimitiveBehaviours,
    EndBehaviours,
):
    """Inherit it, name your backend, and pytest runs the behaviours against it."""
