import taskrun


def count_words(texts, counts):
    while (text := texts.get()) is not None:
        counts.put((text, len(text.split())))


with taskrun.Executor(max_workers=2) as ex:
    texts, counts = ex.context.Queue(), ex.context.Queue()
    for item in ("to be", "or not to be", "that is the question", None, None):
        texts.put(item)
    workers = [ex.submit(count_words, texts, counts) for _ in range(2)]
    print(sorted(counts.get() for _ in range(3)))
    for worker in workers:
        worker.result()
