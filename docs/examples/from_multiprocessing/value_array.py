import taskrun


def add(hits, marks, which):
    for _ in range(100):
        with hits.get_lock():
            hits.value += 1
    marks[which] = hits.value > 0


with taskrun.Executor() as ex:
    hits, marks = ex.context.Value("i", 0), ex.context.Array("d", 3)
    for future in [ex.submit(add, hits, marks, which) for which in range(3)]:
        future.result()
    print(hits.value, marks[:])
