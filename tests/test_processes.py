"""Nothing that a test starts outlives it."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import support

# A process, its child in a session of its own as of a torchrun, and a grandchild; each says what its number is.
FAMILY = """
import os, subprocess, sys, time
generations = int(sys.argv[1])
print(os.getpid(), flush=True)
if generations:
    command = [sys.executable, __file__, str(generations - 1)]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
time.sleep(1e6)
"""

# Starts such a family as a test does, and stands still.
STARTER = """
import sys, time
import processes
with processes.start([sys.executable, sys.argv[1], "2"]):
    time.sleep(1e6)
"""

# The same by a test that pytest runs.
TEST = """
import sys, time
import processes

def test_stands_still():
    with processes.start([sys.executable, {family!r}, "2"], stdout=open({log!r}, "w")):
        time.sleep(1e6)
"""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A script that starts processes which never end."""
    path = tmp_path / "family.py"
    path.write_text(FAMILY)
    return path


def all_gone(pids: list[int]) -> Callable[[], bool]:
    """Whether every one has ended, as a condition to wait for."""
    return lambda: all(map(processes.is_gone, pids))


def first_lines(process: processes.Process, count: int) -> list[int]:
    """The numbers that a process and its descendants print."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def environment() -> dict[str, str]:
    """With the tests' modules to import."""
    return {**os.environ, "PYTHONPATH": str(Path(processes.__file__).parent)}


def test_end_of_a_process_is_that_of_all_it_started(family: Path) -> None:
    """Also of those in sessions of their own; at the end of the block none is left, not even for a moment."""
    with processes.start([sys.executable, family, "2"], stdout=processes.PIPE) as process:
        pids = first_lines(process, 3)
        assert not any(map(processes.is_gone, pids))
    assert all(map(processes.is_gone, pids))


def test_command_that_ended_leaves_nothing_behind(family: Path) -> None:
    """A shell that puts a process in the background and ends."""
    completed = processes.run(["bash", "-c", f"setsid {sys.executable} {family} 1 >/dev/null 2>&1 & echo $!"])
    assert completed.returncode == 0
    assert processes.is_gone(int(completed.stdout))


def test_processes_end_when_their_starter_is_killed(family: Path) -> None:
    """SIGKILL, which nobody can handle: not one of three generations goes on."""
    command = [sys.executable, "-c", STARTER, family]
    with processes.start(command, stdout=processes.PIPE, env=environment()) as starter:
        pids = first_lines(starter, 3)
        starter.kill()
        support.wait_until(all_gone(pids))


@pytest.mark.parametrize(
    ("number", "runner"),
    [
        (signal.SIGKILL, "no:xdist"),
        (signal.SIGKILL, "xdist"),  # the controller is killed, above the worker that starts
        (signal.SIGALRM, "no:xdist"),  # what pytest-timeout sends itself
    ],
)
def test_processes_end_with_a_pytest_that_is_killed_or_out_of_time(
    family: Path, tmp_path: Path, number: signal.Signals, runner: str
) -> None:
    """Not one of what its test had started goes on."""
    log = tmp_path / "log"
    log.touch()
    (tmp_path / "conftest.py").write_text("import processes\nprocesses.watch()\n")
    (tmp_path / "test_one.py").write_text(TEST.format(family=str(family), log=str(log)))
    options = ["-c", os.devnull, "--rootdir", tmp_path, "-o", f"timeout={support.LONG_SECONDS}", "-p", runner]
    command = [sys.executable, "-m", "pytest", *options, *(["-n", "1"] if runner == "xdist" else []), tmp_path]
    with processes.start(command, stdout=processes.PIPE, stderr=processes.STDOUT, env=environment()) as inner:
        support.wait_until(lambda: len(log.read_text().splitlines()) == 3)
        inner.send_signal(number)
        status = inner.wait(support.LONG_SECONDS)
        support.wait_until(all_gone([int(line) for line in log.read_text().split()]))
    assert status == (1 if number == signal.SIGALRM else -number)


def test_process_takes_no_longer_than_its_tests(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does not end is an error, and is gone."""
    monkeypatch.setattr(processes, "LONG_SECONDS", 0.1)
    log = family.with_name("log")
    with pytest.raises(processes.TimeoutExpired):
        processes.run(["bash", "-c", f"{sys.executable} {family} 0 >{log}"])
    assert all(processes.is_gone(int(line)) for line in log.read_text().split())
