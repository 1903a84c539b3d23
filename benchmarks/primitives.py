"""What do locks and queues cost in workers that got them as arguments, beside those inherited the classic way?

    python benchmarks/primitives.py [cycles] [rounds]

An uncontended `Lock`: acquire and release, again and again, in one worker. A `Queue`: one process puts, this one takes. Both in
a `multiprocessing.Process` that has inherited them, and in workers of each backend; rounds interleaved, medians.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import taskrun

if TYPE_CHECKING:
    from collections.abc import Callable

BACKENDS = ("process", "pool", "fork")


def cycles_per_second(lock: Any, cycles: int) -> float:
    acquire, release = lock.acquire, lock.release
    started = time.perf_counter()
    for _ in range(cycles):
        acquire()
        release()
    return cycles / (time.perf_counter() - started)


def tell(connection: Any, fn: Callable[..., float], *args: Any) -> None:
    connection.send(fn(*args))


def put(queue: Any, messages: int) -> None:
    for number in range(messages):
        queue.put(number)
    queue.put(None)


def taken_per_second(queue: Any, messages: int) -> float:
    assert queue.get() == 0
    started = time.perf_counter()
    while queue.get() is not None:
        pass
    return messages / (time.perf_counter() - started)


def inherited_lock(cycles: int) -> float:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=tell, args=(there, cycles_per_second, context.Lock(), cycles))
    process.start()
    speed: float = here.recv()
    process.join()
    return speed


def inherited_queue(messages: int) -> float:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=put, args=(queue, messages))
    process.start()
    speed = taken_per_second(queue, messages)
    process.join()
    return speed


def main(cycles: int = 1_000_000, rounds: int = 9) -> None:
    """Print the table."""
    locks, queues = defaultdict(list), defaultdict(list)
    messages = cycles // 50
    executors = {name: taskrun.Executor(name, max_workers=1) for name in BACKENDS}
    made = {name: (ex.context.Lock(), ex.context.Queue()) for name, ex in executors.items()}
    for _ in range(rounds):
        locks["inherited"].append(inherited_lock(cycles))
        queues["inherited"].append(inherited_queue(messages))
        for name, ex in executors.items():
            lock, queue = made[name]
            locks[name].append(ex.submit(cycles_per_second, lock, cycles).result())
            future = ex.submit(put, queue, messages)
            queues[name].append(taken_per_second(queue, messages))
            future.result()
    for ex in executors.values():
        ex.shutdown()
    print(f"{'':10} {'lock cycles/s':>16} {'ratio':>6} {'messages/s':>12} {'ratio':>6}")
    lock, queue = (statistics.median(table["inherited"]) for table in (locks, queues))
    for name in ("inherited", *BACKENDS):
        a, b = statistics.median(locks[name]), statistics.median(queues[name])
        print(f"{name:10} {a:16,.0f} {a / lock:6.2f} {b:12,.0f} {b / queue:6.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
