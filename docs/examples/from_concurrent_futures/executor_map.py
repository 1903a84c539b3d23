import taskrun


def square(number):
    return number * number


with taskrun.Executor(max_workers=2) as executor:
    print(list(executor.map(square, range(8), chunksize=4)))
    print(list(executor.map(pow, [2, 3], [3, 2], timeout=60)))
