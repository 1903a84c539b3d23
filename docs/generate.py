"""Write anew what the documentation takes from the code: `make docs`. What is not between the marks of a page stays."""

from __future__ import annotations

import os
from pathlib import Path

from taskrun.cli.capabilities import as_markdown
from taskrun.plugins import describe_backends

PAGE = Path(__file__).parent / "reference" / "backends.md"
START = "<!-- From here: `make docs` makes it from the code, as `taskrun backends --markdown` prints it. -->\n"
END = "<!-- To here. -->\n"


def renewed(page: str) -> str:
    """Return *page* with what lies between its marks made anew; raises ValueError if it does not have both once, in order."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest or END in after:
        raise ValueError(f"the page needs these two lines, in this order and once: {START!r} and {END!r}")
    return f"{before}{START}\n{as_markdown(describe_backends())}\n{END}{after}"


def main() -> None:
    old = PAGE.read_text(encoding="utf-8")
    new = renewed(old)
    PAGE.write_text(new, encoding="utf-8")
    print(f"{os.path.relpath(PAGE)}: {'as it was' if new == old else 'written anew'}")


if __name__ == "__main__":
    main()
