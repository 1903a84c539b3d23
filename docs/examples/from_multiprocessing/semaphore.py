import taskrun


def fetch(connections, number):
    with connections:
        return number * 10


with taskrun.Executor(max_workers=4) as ex:
    connections = ex.context.BoundedSemaphore(2)
    print(sorted(ex.map(fetch, [connections] * 4, range(4))))
    try:
        connections.release()
    except ValueError:
        print("ValueError")
