import hashlib

import taskrun


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


with taskrun.Executor(max_workers=4) as executor:  # "thread", or what the configuration says
    future = executor.submit(digest, "one")
    print(future.result())
