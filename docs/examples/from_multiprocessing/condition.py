import taskrun


def wait_for_stock(condition, stock, sold):
    with condition:
        condition.wait_for(lambda: stock.value > 0)
        stock.value -= 1
        sold.value += 1


with taskrun.Executor(max_workers=2) as ex:
    context = ex.context
    condition, stock, sold = context.Condition(), context.Value("i", 0), context.Value("i", 0)
    buyers = [ex.submit(wait_for_stock, condition, stock, sold) for _ in range(2)]
    with condition:
        stock.value += 3
        condition.notify_all()
    for buyer in buyers:
        buyer.result()
    print("sold", sold.value, "left", stock.value)
