import taskrun

table = {number: number * number for number in range(1000)}


def look_up(keys):
    return sum(table[key] for key in keys)


with taskrun.Executor(max_workers=1) as ex:  # "fork", or what the configuration says
    print(ex.submit(look_up, range(0, 1000, 7)).result())
