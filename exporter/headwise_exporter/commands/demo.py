"""`exporter demo`: from nothing to an explained digit, by the commands that a user would type."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headwise_exporter.commands import console
from headwise_exporter.errors import ExporterError

# By module, so that it is the one beside this exporter; -P keeps the working folder's files from being imported.
PYTHON = (sys.executable, "-P", "-m")
PROGRAMS = {
    "exporter": (*PYTHON, "headwise_exporter.cli"),
    "headwise": (*PYTHON, "headwise.cli"),
    "headwise-server": (*PYTHON, "headwise_server.cli"),
}
LOADING_SECONDS = 600  # that the server may take, on a machine that is busy with something else
LISTENING = "listening on "


class DemoError(ExporterError):
    """One of the commands failed; it has said why."""


def _show(words: Sequence[str]) -> None:
    console.out.print(f"$ {shlex.join(words)}", style="bold", highlight=False, markup=False, soft_wrap=True)


def _run(*words: str) -> None:
    """One command, shown as a user would type it; its output goes where ours goes."""
    _show(words)
    program, *arguments = words
    status = subprocess.run([*PROGRAMS[program], *arguments], check=False).returncode
    if status:
        raise DemoError(f"expected `{shlex.join(words)}` to succeed, found exit status {status}; it says why above.")


@contextmanager
def _server(repository: Path, log: Path) -> Iterator[str]:
    """The address of a server on a free port of this machine; drained and stopped at the end."""
    words = ["headwise-server", "--repository", str(repository), "--listen", "127.0.0.1:0"]
    _show(words)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*PROGRAMS[words[0]], *words[1:]], stdout=subprocess.PIPE, stderr=file, text=True, encoding="utf-8"
        )
    with process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith(LISTENING):
                raise DemoError(f"expected the server to listen, found that it stopped:\n{log.read_text('utf-8')}")
            yield line.removeprefix(LISTENING).strip()
        finally:
            process.terminate()
    if process.returncode:
        raise DemoError(f"expected the server to drain and stop, found exit status {process.returncode}: see {log}.")


def demonstrate(models: Path, runs: Path) -> None:
    """Build a bundle of handwritten digits, serve it, classify and explain held-out scans, and stop the server.

    Args:
        models: repository that the bundle is written to.
        runs: folder of intermediate results, of the samples and of the server's log.

    Raises:
        DemoError: a command failed.
    """
    _run("exporter", "build", "--dataset", "digits", "--out", str(models), "--run", str(runs / "digits"))
    samples = runs / "samples"
    _run("exporter", "samples", "digits", "--out", str(samples), "--count", "3")
    digits = [str(path) for path in sorted(samples.glob("*.png"))]
    with _server(models, runs / "server.log") as address:
        _run("headwise", "models", "--server", address, "--wait", str(LOADING_SECONDS))
        _run("headwise", "classify", "--server", address, "--model", "digits", *digits)
        _run("headwise", "explain", "--server", address, "--model", "digits", digits[0])
    console.out.print(f"the server has drained and stopped; the bundle stays in {models / 'digits'}", soft_wrap=True)
