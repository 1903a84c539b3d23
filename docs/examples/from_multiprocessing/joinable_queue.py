import taskrun


def work_off(jobs, total):
    while (job := jobs.get()) is not None:
        with total.get_lock():
            total.value += job
        jobs.task_done()
    jobs.task_done()


with taskrun.Executor(max_workers=2) as ex:
    jobs, total = ex.context.JoinableQueue(), ex.context.Value("i", 0)
    for job in [*range(10), None, None]:
        jobs.put(job)
    for _ in range(2):
        ex.submit(work_off, jobs, total)
    jobs.join()
    print(total.value)
