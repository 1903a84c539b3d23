"""Line 2: what fails on its way, at every position, in every way. Only its own task fails, and the error tells why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import acts
from patience import PATIENCE
from table import PROCESSES, fault

import taskrun

if TYPE_CHECKING:
    from case import Case

ARGUMENTS = ("process", "pool", "process:spawn", "process:fork", "pool:spawn", "pool:fork")
TOLD = {"raise": "no room at the inn", "exit": "no way on", "interrupt": "no rest", "recurse": "recursion"}
"""What the message has to contain."""


def told(error: BaseException | None, how: str, kind: type[BaseException] = taskrun.SerializationError) -> None:
    """See that *error* says what happened."""
    assert isinstance(error, kind), repr(error)
    assert TOLD[how] in str(error), error
    if isinstance(error, taskrun.SerializationError):
        assert error.__cause__ is not None


@fault("process", "pool", soak=ARGUMENTS)
def arguments_fail_on_their_way(case: Case) -> None:
    """As argument, named argument, and part of the function; when pickled here, and when unpickled there."""
    with case.executor() as run:
        for how in (*TOLD, "die", "kill"):
            for when, where in (("pickled", "home"), ("unpickled", "away")):
                if how in ("die", "kill") and when == "pickled":
                    continue  # that would be this process
                value = acts.Traveller(when, where, how)
                futures = {
                    "argument 1": run.submit(acts.as_many, 0, value),
                    "'last'": named(run, value),
                    "": run.submit(lambda value=value: value),
                }
                run.innocents(2)
                for position, future in futures.items():
                    error = future.exception(PATIENCE)
                    if how in TOLD:
                        told(error, how)
                        assert when == "unpickled" or position.strip("'") in str(error), error
                    else:
                        assert isinstance(error, taskrun.WorkerCrashedError), repr(error)


def named(run: Any, value: Any) -> Any:
    future = run.ex.submit(acts.as_many, 1, last=value)
    run.futures.append(future)
    return future


@fault("process", "pool", "fork", soak=PROCESSES)
def results_fail_on_their_way(case: Case) -> None:
    """When pickled there, and when unpickled here."""
    with case.executor() as run:
        for how in (*TOLD, "die", "kill"):
            for when, where in (("pickled", "home"), ("unpickled", "away")):
                if how in ("die", "kill") and when == "unpickled":
                    continue  # that would be this process
                future = run.submit(acts.make, acts.Traveller, when, where, how)
                run.innocents(2)
                if how in TOLD:
                    told(future.exception(PATIENCE), how)
                else:
                    assert isinstance(future.exception(PATIENCE), taskrun.WorkerCrashedError)


@fault("process", "pool", "fork", soak=PROCESSES)
def errors_fail_on_their_way(case: Case) -> None:
    """What cannot be rebuilt arrives as a stand-in that tells what it was, and is caught by the class it had as base."""
    with case.executor() as run:
        for how in (*TOLD, "die", "kill"):
            for when, where in (("pickled", "home"), ("unpickled", "away")):
                if how in ("die", "kill") and when == "unpickled":
                    continue
                future = run.submit(acts.raise_made, acts.AwkwardError, when, where, how)
                run.innocents(2)
                error = future.exception(PATIENCE)
                if how in TOLD:
                    assert isinstance(error, (taskrun.RemoteError, acts.AwkwardError)), repr(error)
                    assert "AwkwardError" in repr(error)
                    assert "awkward" in str(error)
                else:
                    assert isinstance(error, taskrun.WorkerCrashedError), repr(error)


class Derived(ValueError):
    """Never unpickles."""

    def __reduce__(self) -> Any:
        return acts.do, ("raise",)


class NotAnError(LookupError):
    """Comes back as a value that is no exception at all."""

    def __reduce__(self) -> Any:
        return str, ("not an error",)


@fault("process", "pool", "fork", soak=PROCESSES)
def what_comes_back_is_of_another_type(case: Case) -> None:
    """A value may; an error that comes back as none is still an error, of the class it had as base."""
    with case.executor() as run:
        result = run.submit(acts.make, acts.Impostor)
        if case.backend != "fork":
            assert run.submit(acts.give_back, acts.Impostor()).result(PATIENCE) == "an impostor"
        assert result.result(PATIENCE) == "an impostor"
        for kind, base in ((NotAnError, LookupError), (Derived, ValueError)):
            error = run.submit(acts.raise_made, kind, "the text").exception(PATIENCE)
            assert isinstance(error, base), repr(error)
            assert kind.__name__ in repr(error) or kind.__name__ in str(error)
            assert "the text" in str(error)
        run.innocents(3)


class Needy(Exception):
    """Its constructor does not take its own arguments."""

    def __init__(self, *, code: int, **more: int) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.more = more


def raise_a_chain() -> None:
    try:
        try:
            raise Needy(code=1, extra=2)
        except Needy:
            raise KeyError("in the handler")  # noqa: B904 - its context is what is tested
    except KeyError as inner:
        group = ExceptionGroup("several", [Needy(code=3), OSError(2, "gone", "file")])
        group.add_note("a note")
        raise group from inner


@fault("process", "pool", "fork", "process:spawn", soak=PROCESSES)
def errors_with_everything_arrive_whole(case: Case) -> None:
    """A group with notes, from a cause with a context, all with awkward constructors."""
    with case.executor() as run:
        error = run.submit(raise_a_chain).exception(PATIENCE)
        assert isinstance(error, ExceptionGroup)
        needy, missing = error.exceptions
        assert isinstance(needy, Needy)
        assert (needy.code, needy.args) == (3, ("code 3",))
        assert isinstance(missing, FileNotFoundError)
        assert missing.filename == "file"
        assert error.__notes__[0] == "a note"
        assert isinstance(error.__cause__, KeyError)
        context = error.__cause__.__context__
        assert isinstance(context, Needy)
        assert context.more == {"extra": 2}
        run.innocents(3)
