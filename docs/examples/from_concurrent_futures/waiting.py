import taskrun


def ratio(number):
    return 60 / number


with taskrun.Executor(max_workers=2) as executor:
    futures = {executor.submit(ratio, number) for number in (1, 2, 3)}
    done, pending = taskrun.wait(futures, timeout=60)
    print(sorted(future.result() for future in done), pending)
    done, _ = taskrun.wait([executor.submit(ratio, 0)], return_when=taskrun.FIRST_EXCEPTION)
    print([future.exception() for future in done])
