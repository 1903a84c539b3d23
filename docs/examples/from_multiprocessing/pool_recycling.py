import taskrun

database = None


def connect(name):
    global database
    database = f"a connection to {name}"


def query(number):
    return f"{number} by {database}"


with taskrun.Pool(2, initializer=connect, initargs=("stock",), maxtasksperchild=2) as pool:
    for answer in pool.map(query, range(5)):
        print(answer)
