import taskrun


def ratio(number):
    return 60 / number


with taskrun.Pool(4) as pool:
    results = [pool.apply_async(ratio, (number,)) for number in (1, 2, 0, 3)]
    for result in results:
        result.wait()
        if result.successful():
            print(result.get())
        else:
            try:
                result.get()
            except ZeroDivisionError as error:
                print(error)
