"""Write anew what the documentation takes from the code: `make docs`. What is not between the marks of a page stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskrun.cli.capabilities import as_markdown
from taskrun.context import NAMES, context_of
from taskrun.options import WorkerSettings
from taskrun.plugins import describe_backends
from taskrun.thread_context import ThreadContext

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parent / "reference" / "backends.md"
CONTEXTS = Path(__file__).parent / "reference" / "contexts.md"
START = "<!-- From here: `make docs` makes it from the code. -->\n"
END = "<!-- To here. -->\n"


def renewed(page: str, table: str | None = None) -> str:
    """Return *page* with what lies between its marks made anew; raises ValueError if it does not have both once, in order."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest or END in after:
        raise ValueError(f"the page needs these two lines, in this order and once: {START!r} and {END!r}")
    return f"{before}{START}\n{as_markdown(describe_backends()) if table is None else table}\n{END}{after}"


def contexts_as_markdown() -> str:
    """Return the table of what the context of each built-in backend has."""
    backends = [info.cls for info in describe_backends() if info.source == "taskrun"]
    contexts = [context_of(each, WorkerSettings(max_workers=1, name="docs")) for each in backends]
    rows = [["", *(f"`{each.name}`" for each in backends)]]
    rows += [[f"`{name}`", *(_between(context, name) for context in contexts)] for name in (*NAMES, "Pool", *FUNCTIONS)]
    rows += [[words, *(_works(context, use) for context in contexts)] for words, use in USES.items()]
    rows.append(["arguments of tasks", *(each.capabilities.primitives for each in backends)])
    rows.append(["`held_locks`", *("yes" if each.capabilities.crash_isolation else "-" for each in backends)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


FUNCTIONS = ("cpu_count", "current_process", "active_children")
USES = {
    "`Process.terminate()`, `kill()`": lambda context: context.Process().terminate(),
    "`Process.sentinel`": lambda context: context.Process().sentinel,
    "`Connection.fileno()`": lambda context: context.Pipe()[0].fileno(),
}


def _between(context: Any, name: str) -> str:
    """Return the kind of what a context has under *name*."""
    has = getattr(context, "_has", None)
    if has is not None and name not in {"Pool", "cpu_count"}:
        return "interpreters" if name in has else "-"
    if name in {"Pool", "cpu_count"}:
        return "yes"
    if name == "BaseManager":
        return "processes"
    return "threads" if isinstance(context, ThreadContext) else "processes"


def _works(context: Any, use: Callable[[Any], object]) -> str:
    try:
        use(context)
    except NotImplementedError:
        return "-"
    except (AttributeError, ValueError, OSError):  # it was not started
        return "yes"
    return "yes"


def main() -> None:
    for page, table in ((PAGE, None), (CONTEXTS, contexts_as_markdown())):
        old = page.read_text(encoding="utf-8")
        new = renewed(old, table)
        page.write_text(new, encoding="utf-8")
        print(f"{os.path.relpath(page)}: {'as it was' if new == old else 'written anew'}")


if __name__ == "__main__":
    main()
