import taskrun


def deposit(lock, balance, amount):
    with lock:
        balance.value += amount


def deposit_twice(lock, balance, amount):
    with lock:
        deposit(lock, balance, amount)
        deposit(lock, balance, amount)


with taskrun.Executor() as ex:
    lock, balance = ex.context.RLock(), ex.context.Value("i", 0, lock=False)
    for future in [ex.submit(deposit_twice, lock, balance, amount) for amount in (5, 10)]:
        future.result()
    print(balance.value)
