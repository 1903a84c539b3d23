import taskrun


def ratio(number):
    return 60 / number


with taskrun.Executor(max_workers=2) as executor:
    asked = {executor.submit(ratio, number): number for number in (1, 2, 0, 3)}
    answers = {}
    for future in taskrun.as_completed(asked, timeout=60):
        error = future.exception()
        answers[asked[future]] = future.result() if error is None else error
print(sorted(answers.items()))
