import taskrun


def primes_below(limit):
    return sum(all(number % divisor for divisor in range(2, number)) for number in range(2, limit))


with taskrun.Executor(max_workers=2, max_tasks_per_child=10) as executor:  # "process", or what the configuration says
    print(executor.submit(primes_below, 100).result())
