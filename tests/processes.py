"""Processes that tests start: none outlives the test that started it, nor a pytest that is killed.

Process groups and signals at a parent's death do not reach what torchrun or a shell starts in a session of its own.
The environment does: every process inherits it. So `start` marks the environment with a name that no other has, and at
the end kills every process that bears it. A watcher does the same for all that its owner started, once the owner is
gone. It sees that by a pipe, whose other end the owner alone holds open, and its children until they have become what
they are to run: none is missed, not even after SIGKILL.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

LONG_SECONDS = 600.0  # no test needs as long, even on a machine that is busy; only a fault does
PIPE, STDOUT, TimeoutExpired = subprocess.PIPE, subprocess.STDOUT, subprocess.TimeoutExpired
Process = subprocess.Popen[str]
Completed = subprocess.CompletedProcess[str]


def _new_mark() -> str:
    return f"STARTED_BY_TEST_{uuid.uuid4().hex}"


def marked(mark: str) -> list[int]:
    """Processes whose environment bears a mark; those that have ended and wait for their parent bear none."""
    variable, pids = f"{mark}=".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if variable in (folder / "environ").read_bytes():
                pids.append(int(folder.name))
    return pids


def is_gone(pid: int) -> bool:
    """Whether a process has ended; its parent may not have asked for its status yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("ascii")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def kill_marked(mark: str) -> None:
    """Kill every process with a mark, and those that they start meanwhile."""
    quiet = 0
    while quiet < 2:  # a process that is just becoming another shows no environment for a moment
        pids = marked(mark)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if pids else quiet + 1
        time.sleep(0.01)


@cache
def watch() -> str:
    """Mark all that this process will start by whatever means, and have it killed once this process is gone."""
    mark = _new_mark()
    end, _held_open = os.pipe()
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", __file__, mark],
        {},  # without the mark of another, whose watcher would kill this one before its work is done
        file_actions=[
            (os.POSIX_SPAWN_DUP2, end, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,  # out of reach of Ctrl-C
    )
    os.close(end)
    os.environ[mark] = ""
    return mark


@contextmanager
def start(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any) -> Iterator[Process]:
    """A process, with the options of `subprocess.Popen`; it is killed at the end, with all that it has started."""
    mark = _new_mark()
    environment = {**(os.environ if env is None else env), watch(): "", mark: ""}
    with subprocess.Popen(command, text=True, env=environment, **options) as process:
        try:
            yield process
        finally:
            kill_marked(mark)


def run(command: Sequence[str | Path], *, check: bool = False, **options: Any) -> Completed:
    """Run a command to its end and give what it printed; nothing that it started goes on.

    Raises:
        AssertionError: `check` is set and the exit status is not 0; with what it printed.
        TimeoutExpired: it took longer than `LONG_SECONDS`.
    """
    with start(command, stdout=PIPE, stderr=PIPE, **options) as process:
        output, errors = process.communicate(timeout=LONG_SECONDS)
    completed = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        assert completed.returncode == 0, output + errors
    return completed


if __name__ == "__main__":
    sys.stdin.read()  # to the end, which comes with that of the owner
    kill_marked(sys.argv[1])
