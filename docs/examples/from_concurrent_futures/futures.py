import taskrun


def ratio(number):
    return 60 / number


def tell(future):
    print("done:", future.result())


with taskrun.Executor(max_workers=1) as executor:
    good, bad = executor.submit(ratio, 4), executor.submit(ratio, 0)
    print(good.result(timeout=60), type(bad.exception()).__name__)
    print(good.done(), good.running(), good.cancelled(), good.cancel())
    executor.submit(ratio, 5).add_done_callback(tell)
