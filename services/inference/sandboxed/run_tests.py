"""Run every test file in this folder, and print each test's outcome as JSON lines.

Arguments: the time limit in seconds. One pytest process runs them all; when a test hangs or kills the process, that is
reported and another process continues with the remaining files.
"""

import json
import os
import select
import signal
import sys
import time

os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

import hypothesis
import pytest

TEST_S = 15.0
OUTPUT = 2_000
OPTIONS = ["-q", "-p", "no:cacheprovider", "--noconftest", "-c", "/dev/null", "--rootdir", "."]


class ProgressReporter:
    """Reports on a pipe which file runs, and how its tests ended."""

    def __init__(self, pipe):
        self.pipe = pipe

    def report(self, node, **what):
        line = json.dumps({"file": node.split("::")[0].split("/")[-1].removesuffix(".py"), **what})
        self.pipe.write(line + "\n")
        self.pipe.flush()

    def pytest_runtest_logstart(self, nodeid, location):
        self.report(nodeid, begins=True)

    def pytest_runtest_logreport(self, report):
        if report.failed or report.skipped:
            self.report(report.nodeid, passed=False, output=report.longreprtext[-OUTPUT:])
        elif report.when == "call":
            self.report(report.nodeid, passed=True, output="")

    def pytest_collectreport(self, report):
        if report.failed and report.nodeid:
            self.report(report.nodeid, passed=False, output=report.longreprtext[-OUTPUT:])

    def pytest_sessionfinish(self):
        self.report("", ended=True)


def lines(pipe, until_next):
    """Yield lines of a pipe until its end, and None when nothing arrives in time."""
    rest = b""
    while True:
        if not select.select([pipe], [], [], until_next())[0]:
            yield None
            return
        piece = os.read(pipe, 65_536)
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


def run(files, deadline):
    """Run these files; returns those that a hanging or crashing test left undone."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reading)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        pytest.main([*OPTIONS, *files], plugins=[ProgressReporter(os.fdopen(writing, "w"))])
        os._exit(0)
    os.close(writing)
    current, begun, ended, hung = None, set(), False, False
    for line in lines(reading, lambda: max(0.1, min(TEST_S, deadline - time.monotonic()))):
        if line is None:
            hung = True
            break
        report = json.loads(line)
        if report.pop("ended", False):
            ended = True
        elif report.pop("begins", False):
            current = report["file"] + ".py"
            begun.add(current)
        else:
            begun.add(report["file"] + ".py")
            print("RESULT " + json.dumps(report), flush=True)
    try:
        os.kill(child, signal.SIGKILL)
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass
    os.close(reading)
    os.waitpid(child, 0)
    if ended:
        return []
    blamed = current or next(f for f in files if f not in begun)
    why = f"did not end within {TEST_S:.0f} s" if hung else "ended the process that ran it"
    print("RESULT " + json.dumps({"file": blamed.removesuffix(".py"), "passed": False, "output": why}), flush=True)
    return [file for file in files if file not in begun and file != blamed]


def main():
    # Slowness is not a fault of the code: hypothesis' deadline means nothing on a busy machine.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("sandbox", deadline=None, database=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("sandbox")
    sys.path.insert(0, os.getcwd())
    deadline = time.monotonic() + float(sys.argv[1])
    files = sorted((f for f in os.listdir() if f.startswith("test_")), key=lambda f: (len(f), f))
    while files and time.monotonic() < deadline:
        files = run(files, deadline)


main()
