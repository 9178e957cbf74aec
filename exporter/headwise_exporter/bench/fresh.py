"""What a graph takes in a process that has nothing else: the time to open it, and the most memory.

The process is this module run as a program, which imports a runtime and NumPy and prints one line of JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headwise_exporter.bench.sessions import Precision, SessionError, open_session, zeros

STATUS = Path("/proc/self/status")
SECONDS = 600  # no graph takes so long, even on a busy machine


@dataclass(frozen=True)
class Footprint:
    """Of one graph in a process of its own."""

    load_seconds: float  # to open it, without the import of the runtime
    peak_memory_bytes: int | None  # of the whole process, after one batch; None where the system does not say


def peak_memory_bytes() -> int | None:
    """Most resident memory that this process had (VmHWM of Linux, which an exec starts from nothing)."""
    lines = STATUS.read_text("ascii").splitlines() if STATUS.is_file() else []
    values = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return next(values, None)


def footprint(path: Path, engine: str, precision: Precision, threads: int, shape: Sequence[int]) -> Footprint:
    """Open a graph in a fresh process and run one batch.

    Args:
        shape: of the uint8 images (N, Y, X, C).

    Raises:
        SessionError: the process failed; it says why.
    """
    arguments = (str(path), engine, precision, str(threads), json.dumps(list(shape)))
    # -P keeps the working folder's files from being imported.
    words = [sys.executable, "-P", "-m", "headwise_exporter.bench.fresh", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False, timeout=SECONDS)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SessionError(f"expected {path.name} to open on {engine} in a fresh process, found: {lines[-1]}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str]) -> None:
    """Of the fresh process: measure itself and print."""
    path, engine, precision, threads, shape = arguments
    started = time.perf_counter()
    # Whatever else is given as a precision, the session refuses.
    opened = open_session(Path(path), engine, precision, int(threads))  # type: ignore[arg-type]  # a str of argv
    load_seconds = time.perf_counter() - started
    opened.run(zeros(json.loads(shape)))
    print(json.dumps({"load_seconds": load_seconds, "peak_memory_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    main(sys.argv[1:])
