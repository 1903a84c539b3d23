import taskrun


def area(width, height=1):
    return width * height


with taskrun.Pool(2) as pool:
    print(pool.apply(area, (3,)))
    print(pool.apply(area, (3,), {"height": 4}))
