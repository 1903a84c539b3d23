import taskrun


def append(lock, path, line):
    with lock, open(path, "a") as file:
        file.write(line + "\n")


with taskrun.Executor() as ex:
    lock = ex.context.Lock()
    for future in [ex.submit(append, lock, "lines.txt", line) for line in ("one", "two", "three")]:
        future.result()
    with open("lines.txt") as file:
        print(sorted(file.read().split()))
