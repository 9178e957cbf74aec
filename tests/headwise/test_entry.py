"""How commands start: without their packages, with a fault of our own, and asked for their version."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import processes
import pytest

COMMANDS = {
    "headwise": "headwise.cli",
    "headwise-server": "headwise_server.cli",
    "exporter": "headwise_exporter.cli",
}


def run(code: str, **environment: str) -> processes.Completed:
    """Run Python code in a process of its own."""
    return processes.run([sys.executable, "-c", code], env={**os.environ, **environment})


def start(command: str, *arguments: str) -> str:
    """Code that starts a command as its script does."""
    return f"import sys; sys.argv = {[command, *arguments]}; from {COMMANDS[command]} import main; main()"


@pytest.mark.parametrize(
    ("command", "package", "expected"),
    [
        ("headwise", "typer", "install the command with: pip install 'headwise[cli]'"),
        ("headwise", "rich", "install the command with: pip install 'headwise[cli]'"),
        ("headwise-server", "typer", "install the server with: pip install 'headwise[server,cpu]'"),
        ("headwise-server", "grpc_health", "install the server with: pip install 'headwise[server,cpu]'"),
        ("headwise-server", "PIL", "install the server with: pip install 'headwise[server,cpu]'"),
        ("exporter", "torch", "install the exporter with: pip install 'headwise[exporter]'"),
        ("exporter", "typer", "install the exporter with: pip install 'headwise[exporter]'"),
    ],
)
def test_command_without_its_extra_says_what_to_install(command: str, package: str, expected: str) -> None:
    """One line that names the package and the extra, and exit status 1."""
    process = run(f"import sys; sys.modules[{package!r}] = None; {start(command)}")
    assert process.returncode == 1
    assert process.stderr == f"{command}: the package {package} is missing; {expected}\n"


@pytest.mark.parametrize(
    ("command", "module"), [("headwise", "headwise.tables"), ("headwise-server", "headwise_server.engines")]
)
def test_fault_of_our_own_is_no_missing_extra(command: str, module: str) -> None:
    """A module of ours that is not there, or a name that a package does not have, stays a traceback."""
    missing = run(f"import sys; sys.modules[{module!r}] = None; {start(command)}")
    assert "Traceback" in missing.stderr
    assert "pip install" not in missing.stderr
    other = run(f"import sys, types; sys.modules['typer'] = types.ModuleType('typer'); {start(command)}")
    assert "Traceback" in other.stderr
    assert "pip install" not in other.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_command_shows_its_version(command: str) -> None:
    """The command's name and the version of the distribution; nothing else is asked for."""
    process = run(start(command, "--version"))
    assert (process.returncode, process.stdout) == (0, f"{command} {version('headwise')}\n")


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("headwise", "headwise cla", "classify"),
        ("headwise-server", "headwise-server --repos", "--repository"),
        ("exporter", "exporter bui", "build"),
    ],
)
def test_shell_completes_commands_and_options(command: str, words: str, expected: str) -> None:
    """What --install-completion has bash ask for."""
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    script = Path(sys.executable).parent / command
    process = processes.run(
        [script],
        check=True,
        env={**os.environ, variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1"},
    )
    assert process.stdout.split() == [expected]
