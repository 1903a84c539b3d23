import taskrun


def measure(table, order, word):
    table[word] = len(word)
    order.append(word)


with taskrun.Executor() as ex, ex.context.Manager() as manager:
    table, order = manager.dict(), manager.list()
    for word in ("one", "three"):
        ex.submit(measure, table, order, word).result()
    print(dict(table), list(order))
