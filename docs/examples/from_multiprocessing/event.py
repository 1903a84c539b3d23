import taskrun


def start_together(event, name):
    event.wait(timeout=60)
    return name


with taskrun.Executor(max_workers=2) as ex:
    event = ex.context.Event()
    futures = [ex.submit(start_together, event, name) for name in ("left", "right")]
    print(event.is_set(), not any(future.done() for future in futures))
    event.set()
    print(sorted(future.result() for future in futures))
