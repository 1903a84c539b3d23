import taskrun

context = taskrun.get_context()


def greet(name, greetings):
    greetings.put(f"hello {name}")


if __name__ == "__main__":
    greetings = context.Queue()
    processes = [context.Process(target=greet, args=(name, greetings)) for name in ("Ada", "Grace")]
    for process in processes:
        process.start()
    print(sorted(greetings.get() for _ in processes))
    for process in processes:
        process.join(timeout=60)
    print([process.exitcode for process in processes])
