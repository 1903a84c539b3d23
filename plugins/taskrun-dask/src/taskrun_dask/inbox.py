"""What comes back from the cluster: what its scheduler tells of our tasks, and what its workers answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Future

    from taskrun.backends.remote import Answer, Flight, RemoteBackend

__all__ = ["LOST", "Inbox"]

LOST = "lost"
"""In the place of an answer: the worker that had it died."""

_PATIENCE = 10.0  # seconds for the scheduler to say what it knows
_LOOK = 0.1  # seconds between two looks at what does not come


class Inbox:
    """Lives in the client's event loop; `expect`, `saved` and `dismiss` are the feeder's, one step of a dict each."""

    def __init__(self, backend: RemoteBackend, wanted: Callable[[Flight], bool]) -> None:
        """*backend* is told; *wanted*: whether somebody waits for a flight still."""
        self._backend = backend
        self._wanted = wanted
        self._sent: dict[str, Flight] = {}  # by the keys of Dask's tasks
        self._saved: dict[str, Answer | str] = {}  # likewise: answers, or words in their place, until they are asked for
        self._fetching: dict[str, Flight] = {}  # likewise: those that are there and come
        self._fetchers: dict[str | None, list[Future]] = {}  # worker -> what is to be fetched from it next

    def expect(self, key: str, flight: Flight) -> None:
        """Note what is about to be submitted."""
        self._sent[key] = flight

    def saved(self, key: str) -> Answer | str | None:
        """Return what is known of a task that has ended: its answer, or a word in the place of one."""
        return self._saved.get(key)

    def dismiss(self, key: str) -> None:
        """Nobody asks for that one any more."""
        self._sent.pop(key, None)
        self._saved.pop(key, None)

    # -- in the client's event loop --------------------------------------------------------------------------------------------

    def done(self, flight: Flight, future: Future) -> None:
        """Hear that a task of Dask's is over, and fetch what it came to."""
        if not self._wanted(flight) or future.status != "finished" or future.key in self._saved:
            self._backend.ended(flight)
            return
        self._fetching[future.key] = flight
        worker = flight.where[0] if flight.where is not None else None
        if worker in self._fetchers:
            self._fetchers[worker].append(future)
        else:
            self._fetchers[worker] = [future]
            future.client.loop.add_callback(self._fetch, worker)

    async def _fetch(self, worker: str | None) -> None:
        """Fetch what a worker has for us: from each by itself, since one that is stopped, or holds its GIL, does not answer."""
        while futures := {future.key: future for future in self._fetchers[worker]}:
            self._fetchers[worker].clear()
            while futures:
                gathering = asyncio.ensure_future(next(iter(futures.values())).client.scheduler.gather(keys=list(futures)))
                while not (await asyncio.wait({gathering}, timeout=_LOOK))[0]:
                    # The scheduler tries for half a minute to connect to a worker that has just died; that it has is told.
                    for key in [key for key, future in futures.items() if future.status != "finished"]:
                        self._saves(key, LOST)
                try:
                    answer = gathering.result()
                except Exception as error:  # mostly since the scheduler has gone
                    self._backend.lose(f"answers could not be fetched: {type(error).__name__}: {error}", error)
                    return
                there = answer.get("data", {})
                for key in answer.get("keys", there):
                    future = futures.pop(key)
                    self._saves(key, there[key] if key in there else await self._lost_result(future))
        del self._fetchers[worker]

    async def _lost_result(self, future: Future) -> Answer | str:
        """Return the answer that a worker had which is gone: what it began next has saved it, if that was one of ours."""
        until = time.monotonic() + _PATIENCE
        while future.status == "finished" and time.monotonic() < until:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)  # that it is lost is told on the way that the answer would have come before
        return self._saved.get(future.key, LOST)

    def _saves(self, key: str, answer: Answer | str) -> None:
        """Keep an answer until it is asked for, and say so where it was waited for."""
        if key in self._sent:  # else nobody asks any more
            self._saved.setdefault(key, answer)
        if (flight := self._fetching.pop(key, None)) is not None:
            self._backend.ended(flight)

    def reported(self, event: tuple[float, tuple[str, tuple[str, str, int] | None, Answer | str | None]]) -> None:
        """Hear an event of the arbiter's (see its `TOPIC`)."""
        key, begun, answer = event[1]
        flight = self._sent.get(key)
        if flight is None:
            return
        if answer is not None:
            self._saves(key, answer)
            if isinstance(answer, str):
                self._backend.ended(flight)  # nothing else comes
        elif begun is not None:
            label, address, pid = begun
            self._backend.started(flight, label, (address, pid))
        else:
            self._backend.waits(flight)
