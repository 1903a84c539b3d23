import taskrun


def numbers():
    yield from range(6)


def inverse(number):
    return 12 / number


with taskrun.Pool(2) as pool:
    results = pool.imap(inverse, numbers())
    while True:
        try:
            print(results.next(timeout=60))
        except ZeroDivisionError as error:  # of one item; the next one comes after it
            print(error)
        except StopIteration:
            break
    print(sorted(pool.imap_unordered(abs, [-3, 2, -1])))
