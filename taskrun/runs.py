"""Runs: several tiny items of a `map` as one task, each with an outcome of its own.

A task costs some ten microseconds, whatever it does; items that take less travel together, as many as make a millisecond. What
an item can tell is the same as without: its error is its own, `current_task().index` is its position, a context variable that
it sets is not seen by the next one, and what it is given and returns shares no object with its neighbours. A run that takes
much longer than it should stops between two items: the map submits the rest anew, in shorter runs or one by one. If an item
does not end, perhaps since it waits for one after it, what has not begun is taken back (`Rest`).
"""

from __future__ import annotations

import pickle
import time
from contextvars import copy_context
from itertools import chain, islice
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from taskrun import shipping
from taskrun.exception_text import without_frames_of
from taskrun.exceptions import dump_exception, load_exception
from taskrun.plain import dump_plain
from taskrun.serialization import dump_arguments, dump_function, dump_result, load_arguments, load_function, load_result
from taskrun.task import CurrentTask, Entered, Task, current_task, entered

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from contextvars import Context

__all__ = [
    "OVERDUE",
    "RUN_SECONDS",
    "Live",
    "Outcomes",
    "Rest",
    "Run",
    "Star",
    "not_a_run",
    "pack_items",
    "split_outcomes",
]

RUN_SECONDS = 1e-3
"""Seconds of work that make a run; items of a run may fail together if their worker dies."""
_AT_MOST = 2 * RUN_SECONDS  # seconds after which a run stops
_UNLOOKED = 16, 128  # items between two looks at the clock: at first, and at most
_UNLOOKED_SECONDS = 2e-4  # ... as many as take that long, and no more than there were so far
_SMALL = 1 << 20  # bytes
OVERDUE = 0.02
"""Seconds after which an item of a run is believed to wait for something: what comes after it is taken back."""


class Outcomes(NamedTuple):
    """What became of the first items of a run, in order."""

    items: int
    values: list[Any] | bytes
    """The results, None for an item that failed; or all of them as one pickle."""
    packed: bool
    """They are pickles, each of its own."""
    errors: dict[int, Any]
    """By position in the run: exceptions, or pickles of them."""
    seconds: float

    @property
    def small(self) -> bool:
        """All items have succeeded, and the results are numbers, text and the like, few bytes in all."""
        return type(self.values) is bytes and not self.errors and len(self.values) <= _SMALL

    def unpacked(self) -> list[Any] | None:
        """Return the results if they are all there; None if some failed or are to be unpickled (`split_outcomes`)."""
        if self.packed or self.errors:
            return None
        return self.loaded()

    def loaded(self) -> list[Any]:
        """Return the results out of their common pickle, if they are in one."""
        return pickle.loads(self.values) if type(self.values) is bytes else self.values  # type: ignore[return-value]


class Rest:
    """The items of a run that have not begun; whoever calls them and who takes them back are never given the same one.

    The first is the run's for good, so that each run calls one: it may be long before it comes to that.
    """

    __slots__ = ("_items", "end", "first", "since")

    def __init__(self, items: Sequence[Any], since: float) -> None:
        self._items = iter(items)
        self.first = next(self._items)
        self.end = len(items)
        """How many items the run has."""
        self.since = since
        """When it began (`time.monotonic`)."""

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def take(self) -> int:
        """Take back all that have not begun; return how many are left to the run. In any thread, or a signal handler."""
        self.end -= len(list(self._items))  # in one step
        return self.end


class Live:
    """A run that is called in this process; who submitted it looks at it now and then."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest: Rest | None = None


watch: Callable[[Rest | None], object] | None = None
"""In a worker process: called with what is left of a run when that begins, and with None when it is over. Not for runs of an
executor that a task has made, whose workers are threads of this process: these have a `Live`."""


class Run:
    """The function of a map, called with one item of a run after the other."""

    __slots__ = ("__weakref__", "fn", "name", "packs", "spread")

    def __init__(self, fn: Callable[..., Any], name: str, *, spread: bool, packs: bool) -> None:
        self.fn = fn
        self.name = name
        self.spread = spread
        """Each item holds all arguments of its call; else it is the only one."""
        self.packs = packs
        """Arguments and results are pickled."""

    def __call__(
        self, items: Sequence[Any], packed: bool, live: Live | None = None
    ) -> Outcomes | Coroutine[Any, Any, Outcomes]:
        """Call the function with the items, until all are done or it takes too long; *packed*: they are pickles.

        *items* may be one pickle.
        """
        started = time.monotonic()
        if type(items) is bytes:
            items = pickle.loads(items)
        until = started + _AT_MOST
        values: list[Any] = []
        errors: dict[int, BaseException] = {}
        rest = Rest(items, started)
        call = self._calls(values, errors, packed)
        entered.set(_Items(values))
        base = copy_context()
        if live is not None:
            live.rest = rest
        elif watch is not None:
            watch(rest)
        awaits = False
        fewest, most = _UNLOOKED
        some: Iterator[Any] = chain((rest.first,), islice(rest, fewest - 1))
        try:
            while len(values) < rest.end and not awaits:
                context = base.copy()
                context.run(call, context, some)
                awaits = type(values[-1]) is CoroutineType
                now = time.monotonic()
                if now > until:
                    break
                count = int(len(values) * _UNLOOKED_SECONDS / max(now - started, _UNLOOKED_SECONDS))
                some = islice(rest, min(most, max(fewest, count)))
        finally:
            if not awaits:
                _unwatch(live)
        seconds = time.monotonic() - started
        return self._awaited(values, errors, seconds, live) if awaits else self._outcomes(values, errors, seconds)

    def _calls(
        self, values: list[Any], errors: dict[int, BaseException], packed: bool
    ) -> Callable[[Context, Iterable[Any]], None]:
        """Return what calls the function with a few items, or up to the first that changes its context or awaits."""
        fn, append = self.fn, values.append
        if packed:
            fn = _Unpacking(fn)
        elif self.spread:
            fn = Star(fn)

        def call(context: Context, items: Iterable[Any]) -> None:  # the current one, which is quicker to look at than a copy
            unchanged = context.copy()
            for item in items:
                try:
                    value = fn(item)
                except BaseException as error:  # whatever it is, it is this item's outcome
                    without_frames_of(globals(), error)
                    errors[len(values)] = error
                    value = None
                append(value)
                if type(value) is CoroutineType:
                    return
                try:
                    if context != unchanged:
                        return
                except Exception:  # of the `==` of a variable's value: it was changed, then
                    return

        return call

    async def _awaited(
        self, values: list[Any], errors: dict[int, BaseException], seconds: float, live: Live | None
    ) -> Outcomes:
        """Await the last one, which is a coroutine. What comes after it can be taken back meanwhile: it may wait for that."""
        started = time.monotonic()
        coroutine = values.pop()  # the current item, while it runs
        try:
            values.append(await coroutine)
        except BaseException as error:  # as in a call
            without_frames_of(globals(), error)
            errors[len(values)] = error
            values.append(None)
        finally:
            _unwatch(live)
        return self._outcomes(values, errors, seconds + time.monotonic() - started)

    def _outcomes(self, values: list[Any], errors: dict[int, Any], seconds: float) -> Outcomes:
        if not self.packs:
            return Outcomes(len(values), values, False, errors, seconds)
        name = self.name
        packed = dump_plain(values)
        if packed is None:
            for position, value in enumerate(values):
                try:
                    values[position] = dump_result(value, task=name)
                except BaseException as error:  # SerializationError, or what the user's pickling code raised for good
                    errors[position] = error
                    values[position] = b""
        dumped = {at: dump_exception(error, task=name) for at, error in errors.items()}
        return Outcomes(len(values), packed or values, packed is None, dumped, seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (dump_function(self.fn, task=self.name), self.name, self.spread, self.packs)

    @property
    def __name__(self) -> str:
        """What `function_name` finds."""
        return self.name


def _unwatch(live: Live | None) -> None:
    if live is None and watch is not None:
        watch(None)


def _load(data: bytes, name: str, spread: bool, packs: bool) -> Run:
    return Run(load_function(data, task=name), name, spread=spread, packs=packs)


class Star:
    """Spreads one item over the arguments of a function; a class, so that it pickles."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)

    def __call__(self, item: Iterable[Any]) -> Any:
        return self.fn(*item)


class _Unpacking:
    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, item: bytes) -> Any:
        args, _ = load_arguments(item)
        return self.fn(*args)


class _Items(Entered):
    """In the place of the run's own `CurrentTask` while its items are called: the number of outcomes tells which one is."""

    __slots__ = ("_made", "_outer", "_run", "_values")

    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self._outer = entered.get()
        self._run = current_task()
        self._values = values
        self._made: CurrentTask | None = None

    @property
    def task(self) -> Task | None:
        return self._outer.task if isinstance(self._outer, Entered) else None

    def current(self) -> CurrentTask:
        run, index = self._run, len(self._values)
        assert run is not None  # noqa: S101 - a run is a task
        index += run.index
        made = self._made
        if made is None or made.index != index:
            made = self._made = run.of_item(index)
        return made


# -- in the parent -------------------------------------------------------------------------------------------------------------


def pack_items(items: list[Any], run: Run) -> tuple[list[Any] | bytes, bool] | None:
    """Return *items* as *run* takes them; None if one of them cannot be pickled: then each is to travel alone.

    Items whose sharing cannot be noticed are one pickle, others have one each.
    """
    if not run.packs:
        return items, False
    plain = dump_plain(items)
    if plain is not None:
        return plain, False
    try:
        with shipping.collecting() as refers:
            packed = [dump_arguments(item if run.spread else (item,), {}, task=run.name) for item in items]
    except BaseException:  # the item whose fault it is tells, when it is sent alone
        return None
    return None if refers else (packed, True)  # what goes beside a task (locks, what is shared) goes with its own item


def not_a_run(outcome: object) -> TypeError:
    """Return the error of a run that has come to something else than `Outcomes`."""
    return TypeError(f"the backend has answered a run of items with an object of type {type(outcome).__name__}")


def split_outcomes(found: Outcomes) -> list[tuple[Any, BaseException | None]]:
    """Return value and error of each item, those that were pickled as they come out of it."""
    outcomes: list[tuple[Any, BaseException | None]] = []
    for position, value in enumerate(found.loaded()):
        error = found.errors.get(position)
        if error is not None:
            outcomes.append((None, load_exception(error) if isinstance(error, bytes) else error))
        elif found.packed:
            try:
                outcomes.append((load_result(value), None))
            except BaseException as unloaded:  # SerializationError
                outcomes.append((None, unloaded))
        else:
            outcomes.append((value, None))
    return outcomes
