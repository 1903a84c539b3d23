"""Client libraries that may be absent."""

from __future__ import annotations

from typing import Any

import pytest


def library(name: str) -> Any:
    """Return a module of a large library, which `make test` does not install; without it the tests are skipped."""
    package = name.partition(".")[0]
    return pytest.importorskip(name, reason=f"{package} is not installed; `make test-clients` installs it and runs these tests")
