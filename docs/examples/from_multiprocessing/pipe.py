import taskrun


def answer(connection):
    while (question := connection.recv()) is not None:
        connection.send(question.upper())
    connection.close()


with taskrun.Executor(max_workers=1) as ex:
    here, there = ex.context.Pipe()
    for question in ("who", "where", None):
        here.send(question)
    future = ex.submit(answer, there)
    print(here.recv(), here.recv())
    future.result()
