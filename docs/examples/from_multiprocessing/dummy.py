import taskrun

context = taskrun.get_context("thread")
found = []


def visit(lock, names):
    while (name := names.get()) is not None:
        with lock:
            found.append(name)


lock, names = context.Lock(), context.Queue()
for item in ("a", "b", "c", None, None):
    names.put(item)
threads = [context.Process(target=visit, args=(lock, names)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(found))
