import taskrun


def square(number):
    return number * number


def power(base, exponent):
    return base**exponent


with taskrun.Pool(4) as pool:
    print(pool.map(square, range(8)))
    print(pool.starmap(power, [(2, 3), (3, 2), (10, 4)], chunksize=2))
    later = pool.map_async(square, [8, 9])
    print(later.get(timeout=60))
