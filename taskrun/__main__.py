"""`python -m taskrun` is the command `taskrun`."""

from __future__ import annotations

import sys

from taskrun.cli import main

if __name__ == "__main__":
    sys.exit(main())
