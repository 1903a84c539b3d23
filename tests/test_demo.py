"""The demonstration: the same job on two backends comes to the same results."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taskrun.backends.thread import ThreadBackend
from taskrun.plugins import BUILTIN, BackendInfo, describe_backends

# Python's own words, which have changed.
NOT_UTF_8 = "Non-UTF-8 code" if sys.version_info >= (3, 14) else "'utf-8' codec can't decode byte 0xe9"
UNICODE_ERROR = "" if sys.version_info >= (3, 14) else "(unicode error) "

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metrics():
    return load("code_metrics")


SOURCE = """\
import os

if os.name == "posix" and os.sep == "/" or not os.sep:
    pass

class Shape:
    def area(self, *sides):
        for side in sides:
            if not side:
                return 0
        def inner(x):
            return 1 if x else 2
        return [s for s in sides if s and inner(s)]

async def fetch(url):
    try:
        while True:
            pass
    except (OSError, ValueError):
        pass
    except KeyError:
        pass
"""


def test_complexity_is_counted_by_hand(metrics, tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    assert metrics.measure(str(tmp_path / "a.py")) == {
        "lines": 22,
        # Module: 1 + if + and + or.
        "complexity": 4 + 5 + 2 + 4,
        "functions": [
            ["Shape.area", 7, 5],  # 1 + for + if + comprehension + and
            ["Shape.area.inner", 11, 2],  # 1 + conditional expression
            ["fetch", 15, 4],  # 1 + while + two handlers
        ],
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def f(:\n", "invalid syntax (a.py, line 1)"),
        (b"# \xe9\nx = '\xe9'\n", NOT_UTF_8),
        (b"# coding: nonsense\n", "unknown encoding: nonsense"),
    ],
)
def test_a_file_that_is_not_python_says_why_and_not_where_it_lies(metrics, tmp_path, content, reason):
    (tmp_path / "a.py").write_bytes(content)
    with pytest.raises(SyntaxError) as caught:
        metrics.measure(str(tmp_path / "a.py"))
    assert reason in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


JOB = """
import sys, sysconfig
from pathlib import Path
library, example = sys.argv[1:]
sys.path.insert(0, str(Path(example).parent))
import code_metrics
code_metrics.STDLIB = Path(library)
code_metrics.main()
"""


def run_job(library: Path, backend: str) -> str:
    env = os.environ | {"TASKRUN_BACKEND": backend, "PYTHONPATH": str(EXAMPLES.parents[1])}
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", JOB, str(library), str(EXAMPLES / "code_metrics.py")]
    done = subprocess.run(command, env=env, cwd=library, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_the_job_reports_the_same_on_every_backend_and_every_failed_file(tmp_path, backend):
    (tmp_path / ".git").mkdir()
    for number in range(30):
        (tmp_path / f"m{number:02}.py").write_text(SOURCE * (number + 1))
    (tmp_path / "escape.py").write_text(r"x = '\d'")  # makes the parser warn, and warnings are errors here
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "not_ours.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "worse.py").write_text("def (:\n")
    found = run_job(tmp_path, backend)
    assert "files done:   31 " in found
    assert "files failed: 2\n" in found
    assert f"    bad.py: SyntaxError: {UNICODE_ERROR}{NOT_UTF_8}" in found
    assert "    worse.py: SyntaxError: invalid syntax (worse.py, line 1)" in found
    expected = run_job(tmp_path, "serial")
    assert [line for line in found.splitlines() if line.startswith("sha-256")] == [
        line for line in expected.splitlines() if line.startswith("sha-256")
    ]


def test_the_hash_is_of_the_results_alone(metrics, capsys):
    report = {"b.py": "SyntaxError: no", "a.py": {"lines": 1, "complexity": 1, "functions": [["f", 1, 1]]}}
    hashes = set()
    for seconds, order in ((1.0, sorted(report)), (2.0, list(report))):
        metrics.summarize({file: json.loads(json.dumps(report[file])) for file in order}, seconds)
        hashes.add(capsys.readouterr().out.split()[-1])
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("process", "thread", "cpus", "gil", "told"),
    [
        (5.0, 10.0, 2, True, ["process was faster: 5.0 s against 10.0 s on thread, 2.0 times.", "the GIL", "2 CPUs"]),
        (10.0, 5.0, 2, True, ["thread was faster: 5.0 s against 10.0 s on process", "ate that up"]),
        (10.0, 10.2, 4, True, ["Both took about as long", "ate that up"]),
        (5.0, 6.0, 1, True, ["process was faster", "There is one CPU here"]),
        (5.0, 5.1, 4, False, ["Both took about as long", "runs without the GIL"]),
    ],
)
def test_the_demo_explains_what_was_measured(process, thread, cpus, gil, told):
    text = load("demo").explain(process, thread, cpus, gil)
    assert all(part in text for part in told), text


@pytest.fixture
def demo():
    return load("demo")


def ran(demo, digest: str = "a", failed: int = 0):
    return demo.Run(1.0, failed, digest, f"sha-256: {digest}\n")


@pytest.mark.parametrize(("digests", "code"), [(("a", "a"), 0), (("a", "b"), 1)])
def test_the_demo_fails_when_the_results_differ(demo, monkeypatch, capsys, digests, code):
    results = iter(digests)
    monkeypatch.setattr(demo, "run", lambda backend: ran(demo, next(results)))
    assert demo.main([]) == code
    assert ("DIFFER" in capsys.readouterr().out) is (code == 1)


def test_the_demo_on_all_backends_has_a_line_for_each_with_the_same_results(demo, monkeypatch, capsys, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    for number in range(5):
        (library / f"m{number}.py").write_text(SOURCE * (number + 1))
    (library / "worse.py").write_text("def (:\n")
    job = tmp_path / "job.py"
    job.write_text(f"import sys\nsys.argv[1:] = {[str(library), str(EXAMPLES / 'code_metrics.py')]}\n{JOB}")
    monkeypatch.setattr(demo, "JOB", job)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parents[1]))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert demo.main(["--all"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BUILTIN)
    for info, line in zip(describe_backends(), lines, strict=False):
        if info.problem is None:
            assert re.fullmatch(rf"{info.name} +[0-9]+\.[0-9]+ +1  yes", line)
        else:
            assert info.problem in line


FAKE_JOB = """
import os, sys
backend = os.environ["TASKRUN_BACKEND"]
if backend == "torn":
    sys.exit(3)
print("files failed: 1,002")
print("seconds:      1.50")
print("sha-256:      " + ("b" if backend == "other" else "a") * 64)
"""


def test_the_demo_on_all_backends_goes_on_after_one_that_fails_and_says_why_one_is_not_used(
    demo, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(demo, "JOB", tmp_path / "job.py")
    demo.JOB.write_text(FAKE_JOB)
    infos = [BackendInfo(name, "taskrun", ThreadBackend, None) for name in ("one", "torn", "other", "same")]
    infos.append(BackendInfo("missing", "taskrun", ThreadBackend, "needs Python 3.99"))
    infos.append(BackendInfo("foreign", "fast-lane 1.0 (lane:Lane)", ThreadBackend, None))
    monkeypatch.setattr(demo, "describe_backends", lambda: infos)
    assert demo.main(["--all"]) == 1
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["one", "1.50", "1,002", "yes"],
        ["torn", "the", "job", "failed", "on", "torn,", "exit", "code", "3"],
        ["other", "1.50", "1,002", "NO"],
        ["same", "1.50", "1,002", "yes"],
        ["missing", "not", "usable", "here:", "needs", "Python", "3.99"],
    ]
    for code, left in ((0, infos[:1]), (1, infos[:2]), (1, [infos[0], infos[2]])):
        monkeypatch.setattr(demo, "describe_backends", lambda left=left: left)
        assert demo.main(["--all"]) == code


def test_the_demo_takes_no_other_arguments(demo):
    with pytest.raises(SystemExit, match="usage"):
        demo.main(["--everything"])
