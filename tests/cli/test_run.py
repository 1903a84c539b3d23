"""`taskrun run` as a user sees it: a real process, its output, its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys

import pytest
from patience import said

BACKENDS = ["serial", "thread", "process", "asyncio"]


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("target", ["jobs:odd", "jobs.py:odd"])
def test_one_call_per_line_results_in_order_failures_by_themselves(command, backend, target):
    command.write("n.txt", "".join(f"{number}\n" for number in range(200)))
    done = command("run", target, "n.txt", "--backend", backend)
    assert done.returncode == 1, done.stderr
    found = records(done.stdout)
    assert [record["index"] for record in found] == list(range(200))
    assert [record["input"] for record in found] == [str(number) for number in range(200)]
    assert [record.get("value") for record in found[1::2]] == list(range(1, 200, 2))
    assert found[4]["error"] == {"type": "ValueError", "message": "4 is even"}
    assert found[4]["source"] == "n.txt:5"
    assert f"on {backend} (" in done.stderr
    assert "100 done, 100 failed" in done.stderr
    assert "100 x ValueError, first at index 0: n.txt:1: 0 is even" in done.stderr


def test_all_done_is_exit_code_0_and_output_goes_to_a_file(command):
    command.write("n.txt", "1\n3\n")
    done = command("run", "jobs:odd", "n.txt", "--backend", "thread", "--output", "out.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert [record["value"] for record in records((command.directory / "out.jsonl").read_text())] == [1, 3]
    assert "2 items in " in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_functions_print_does_not_mix_with_the_results(command, backend):
    command.write("n.txt", "a\nb\n")
    done = command("run", "jobs:double", "n.txt", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert [record["value"] for record in records(done.stdout)] == ["aa", "bb"]
    assert done.stderr.count("printed by double") == 2


def test_the_backend_is_a_setting_like_any_other(command):
    command.write("n.txt", "1\n2\n")
    command.env["TASKRUN_BACKEND"] = "serial"
    here = command("run", "jobs:pid", "n.txt")
    assert "on serial (" in here.stderr
    command.env["TASKRUN_BACKEND"] = "process"
    there = command("run", "jobs:pid", "n.txt", "--max-workers", "1")
    assert "on process (1 worker)" in there.stderr
    assert len({record["value"] for record in records(there.stdout)}) == 1


def test_broken_inputs_fail_alone_and_name_file_and_line(command):
    command.write("a.jsonl", '"x"\n{"broken\n"y"\n')
    command.write("b.csv", "a,b\n1,2,3\n")
    done = command("run", "jobs:double", "a.jsonl", "b.csv", "--backend", "thread")
    assert done.returncode == 1
    assert [record["ok"] for record in records(done.stdout)] == [True, False, True, False]
    assert "2 x InputError, first at index 1: a.jsonl:2: not valid JSON: " in done.stderr
    assert "b.csv:2: too many columns: 3, the header has 2" in done.stdout


def test_expand_spreads_objects_rows_and_arrays(command):
    command.write("a.jsonl", '{"width": 2, "height": 3}\n[4, 5]\n[6]\n7\n{"depth": 1}\n')
    command.write("b.csv", "height,width\n8,9\n")
    done = command("run", "jobs:area", "a.jsonl", "b.csv", "--expand", "--backend", "thread")
    found = records(done.stdout)
    assert [record.get("value") for record in found] == [6, 20, 6, None, None, 72]
    assert "this one is a int" in found[3]["error"]["message"]
    assert "unexpected keyword argument 'depth'" in found[4]["error"]["message"]


def test_a_result_that_is_not_json_fails_clearly_and_repr_writes_it(command):
    command.write("n.txt", "1\n")
    done = command("run", "jobs:today", "n.txt", "--backend", "thread")
    assert done.returncode == 1
    assert "value['day'] is a datetime.date" in records(done.stdout)[0]["error"]["message"]
    done = command("run", "jobs:today", "n.txt", "--backend", "thread", "--repr")
    assert done.returncode == 0
    assert records(done.stdout)[0]["value"] == {"day": "datetime.date(2024, 1, 2)"}


def test_retries_and_settings_reach_the_executor(command):
    command.write("x.bin", "")
    done = command("run", "jobs:flaky", "x.bin", "--backend", "thread", "--retries", "3", "--set", "retry.initial=0.01")
    assert done.returncode == 0, done.stderr
    record = records(done.stdout)[0]
    assert (record["value"], record["attempts"]) == (3, 3)


def test_a_timeout_fails_the_item_with_its_reason(command):
    command.write("n.txt", "30\n0\n")
    done = command("run", "jobs:sleep", "n.txt", "--backend", "process", "--timeout", "2500ms")
    late, fine = records(done.stdout)
    assert late["error"]["type"] == "taskrun.errors.TaskTimeoutError"
    assert fine["ok"]


def test_fail_fast_starts_nothing_more(command):
    command.write("n.txt", "".join(f"{number}\n" for number in range(5000)))
    done = command("run", "jobs:odd", "n.txt", "--backend", "serial", "--fail-fast")
    assert done.returncode == 1
    assert len(records(done.stdout)) == 1
    assert "stopped at the first failure: the rest of the input was not run" in done.stderr


def test_traceback_shows_where_it_failed(command):
    command.write("n.txt", "2\n")
    done = command("run", "jobs:odd", "n.txt", "--backend", "process", "--traceback")
    assert "jobs.py" in records(done.stdout)[0]["error"]["traceback"]


def test_closed_standard_streams_are_told(command):
    run = f"{sys.executable} -m taskrun run jobs.py:double"
    for rest, told in (("- <&-", "standard input is closed"), ("- </dev/null >&-", "standard output is closed")):
        shell = ["/bin/sh", "-c", f"{run} {rest}"]
        done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=60, cwd=command.directory, env=command.env)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", ["jobs.py:double", "jobs.py:nope"])
@pytest.mark.parametrize("errors", ["2>&-", "2>/dev/full"])
def test_the_exit_code_tells_of_a_mistake_where_standard_error_cannot(command, errors, target):
    command.write("n.txt", "1\n")
    shell = ["/bin/sh", "-c", f"{sys.executable} -m taskrun run {target} n.txt {errors}"]
    done = subprocess.run(shell, stdout=subprocess.PIPE, text=True, timeout=60, cwd=command.directory, env=command.env)
    if target == "jobs.py:nope":
        assert (done.returncode, done.stdout) == (2, "")
    else:  # it prints
        (record,) = records(done.stdout)
        assert done.returncode == (0 if record["ok"] else 1)


def test_a_slow_input_does_not_hold_back_results(command):
    process = command.start("run", "jobs:odd", "-", "--backend", "thread", stdin=subprocess.PIPE)
    with process:
        for number in (1, 3, 5):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["value"] == number
        process.stdin.close()
        assert process.stdout.read() == ""
        assert "3 done" in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reader_that_goes_away_ends_the_run_quietly(command, backend):
    command.write("n.txt", "1\n" * 300_000)
    process = command.start("run", "jobs:odd", "n.txt", "--backend", backend)
    with process:
        assert json.loads(process.stdout.readline())["index"] == 0
        process.stdout.close()
        assert said(process.stderr.read()) == ""
    assert process.returncode == 141


def test_a_full_disk_stops_the_run_with_its_own_exit_code(command):
    command.write("n.txt", "1\n" * 20_000)
    done = command("run", "jobs:odd", "n.txt", "--backend", "thread", "-o", "/dev/full")
    assert done.returncode == 3
    assert done.stderr == "taskrun: cannot write results to /dev/full: No space left on device\n"
    with open("/dev/full", "wb") as full:
        done = command("run", "jobs:odd", "n.txt", "--backend", "thread", stdout=full)
    assert done.returncode == 3
    assert done.stderr == "taskrun: cannot write results to standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["jobs:od", "n.txt"], "jobs has no function 'od'; did you mean 'odd'?"),
        (["jobz:odd", "n.txt"], "there is no module 'jobz'"),
        (["jobs:odd", "absent.csv"], "absent.csv: no such file"),
        (["jobs:odd", "n.txt", "--backend", "thred"], 'Did you mean "thread"?'),
        (["jobs:odd", "n.txt", "--max-workers", "0"], "max_workers must be greater than 0"),
        (["jobs:odd", "n.txt", "--timeout", "soon"], "timeout"),
        (["jobs:odd", "n.txt", "--set", "max_worker=3"], "max_worker"),
        (["jobs:odd", "n.txt", "--set", "colour=red", "--backend", "thread"], "colour"),
        (["jobs:odd", "n.txt", "--profile", "night"], "night"),
        (["jobs:odd", "n.txt", "--expand"], "--expand needs JSONL or CSV"),
        (["jobs:odd", "n.txt", "-o", "n.txt"], "is also an input"),
        (["jobs:odd", "n.txt", "--format", "xml"], "xml"),
        (["jobs:odd"], "INPUT"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(command, arguments, told):
    command.write("n.txt", "1\n")
    done = command("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert (command.directory / "n.txt").read_text() == "1\n"


def test_all_mistakes_of_a_configuration_file_are_told(command):
    command.write("n.txt", "1\n")
    command.write("taskrun.toml", 'max_workers = "many"\ntimeout = "soon"\n')
    for arguments in (["run", "jobs:odd", "n.txt"], ["config"]):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "max_workers" in done.stderr
        assert "timeout" in done.stderr
        assert "taskrun.toml" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def held(command):
    """Start a run of two items, one at a time, whose first one is running and waits."""
    os.mkfifo(command.directory / "started")
    os.mkfifo(command.directory / "go")
    command.write("n.txt", "first\nsecond\n")
    processes = []
    started = os.open(command.directory / "started", os.O_RDONLY | os.O_NONBLOCK)

    def start(backend: str, errors: str = "", **options) -> subprocess.Popen:
        arguments = ("run", "jobs:tell_and_wait", "n.txt", "--backend", backend, "--max-workers", "1")
        process = command.start(*arguments, redirected=errors, **options)
        processes.append(process)
        ended = os.pidfd_open(process.pid)
        ready, _, _ = select.select([started, ended], [], [], 30)
        os.close(ended)
        assert started in ready, process.communicate(timeout=10)
        assert os.read(started, 100) == b"first\n"
        return process

    yield start
    for process in processes:
        process.kill()
        with process:
            pass
    os.close(started)


def strike(process, heard):
    """Send Ctrl-C; again if nobody *heard* it: Python does not see one that comes just before a system call that blocks."""
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        if heard():
            return


def says_something(process):
    return lambda: select.select([process.stderr], [], [], 5)[0]


def ends(process):
    def soon():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(5) is not None

    return soon


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_waits_for_what_runs_and_says_how_far_it_got(command, held, backend):
    process = held(backend)
    strike(process, says_something(process))
    assert process.stderr.readline() == "\n"
    assert "Ctrl-C again stops it at once" in process.stderr.readline()
    with open(command.directory / "go", "w"):  # let the first one end
        pass
    out, err = process.communicate(timeout=30)
    assert [record["value"] for record in records(out)] == ["first"]
    assert "1 done, 0 failed" in err
    assert "interrupted: the rest of the input was not run" in err
    assert "Traceback" not in err
    assert process.returncode == 130


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_stops_at_once(held, backend):
    process = held(backend)
    strike(process, says_something(process))
    process.stderr.readline()
    assert "Ctrl-C again" in process.stderr.readline()
    strike(process, ends(process))
    out, err = process.communicate(timeout=10)
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert process.returncode == 130


def test_what_the_shell_has_ignore_ctrl_c_ignores_it(command, held):
    process = held("thread", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    found = []
    for _ in range(2):
        with open(command.directory / "go", "w"):  # let one of them end
            pass
        found.append(json.loads(process.stdout.readline())["value"])
    out, err = process.communicate(timeout=30)
    assert (found, out, process.returncode) == (["first", "second"], "", 0)
    assert "interrupted" not in err


def test_stopped_without_standard_error_it_writes_nothing_into_the_results(held):
    process = held("thread", errors="2>&-")
    for _ in range(100):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            break
    assert process.communicate(timeout=10)[0] == ""
    assert process.returncode in {130, -signal.SIGINT}  # the last one may find the interpreter ending: to a shell, 130 too


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(command):
    command.write("n.txt", "1\n3\n")
    assert "━" not in command("run", "jobs:odd", "n.txt", "--backend", "thread").stderr
    for extra, shown in (([], True), (["--no-progress"], False)):
        ours, theirs = pty.openpty()
        process = command.start("run", "jobs:odd", "n.txt", "--backend", "thread", *extra, stderr=theirs)
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how a terminal says that its last writer has gone
                break
            if not part:
                break
            seen += part
        os.close(ours)
        with process:
            assert len(process.stdout.read().splitlines()) == 2
        assert process.returncode == 0
        assert ("━" in seen.decode()) is shown
        assert b"2 done, 0 failed" in seen


def test_without_its_libraries_the_command_says_how_to_get_them(command):
    code = "import sys; sys.modules['click'] = None; from taskrun.cli import main; sys.exit(main(['backends']))"
    done = subprocess.run([sys.executable, "-c", code], env=command.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'taskrun-executor[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
