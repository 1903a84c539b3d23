import taskrun


def ratio(number):
    return 60 / number


found, failed = [], []

pool = taskrun.Pool(4)
for number in (1, 2, 0, 3):
    pool.apply_async(ratio, (number,), callback=found.append, error_callback=failed.append)
pool.map_async(ratio, [4, 5], callback=found.extend)
pool.close()
pool.join()
print(sorted(found), failed)
