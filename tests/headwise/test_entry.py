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
        ("exporter", "jinja2", "install the exporter with: pip install 'headwise[exporter]'"),
        ("exporter", "tensorboard", "install the exporter with: pip install 'headwise[exporter]'"),
    ],
)
def test_command_without_its_extra_says_what_to_install(command: str, package: str, expected: str) -> None:
    """One line that names the package and the extra, and status 1; also of packages that a late stage needs."""
    process = run(f"import sys; sys.modules[{package!r}] = None; {start(command)}")
    assert process.returncode == 1
    assert process.stderr == f"{command}: the package {package} is missing; {expected}\n"


def test_all_missing_packages_are_named_at_once() -> None:
    """One install brings them all."""
    process = run(f"import sys; sys.modules['torch'] = sys.modules['scipy'] = None; {start('exporter')}")
    assert process.stderr.startswith("exporter: the packages scipy, torch are missing; install the exporter with: ")


def test_health_check_without_its_extra_says_what_to_install() -> None:
    """As the commands do."""
    process = run(
        "import sys, runpy; sys.modules['grpc_health'] = None; "
        "runpy.run_module('headwise_server.healthcheck', run_name='__main__')"
    )
    assert process.returncode == 1
    assert process.stderr == (
        "headwise_server.healthcheck: the package grpc_health is missing; "
        "install the server with: pip install 'headwise[server,cpu]'\n"
    )


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


@pytest.mark.parametrize("command", COMMANDS)
def test_package_runs_as_a_module(command: str) -> None:
    """`python -m` of the import package is the command, under the command's name."""
    package = COMMANDS[command].partition(".")[0]
    process = processes.run([sys.executable, "-m", package, "--help"], check=True)
    assert f"Usage: {command} " in process.stdout


HEAVY = {"jinja2", "matplotlib", "onnx", "onnxruntime", "openvino", "safetensors", "scipy", "sklearn", "torch"}
BRIEF = [
    ("exporter", "--help"),
    ("exporter", "--version"),
    ("exporter", "build", "--help"),
    ("exporter", "compare", "--help"),
    ("exporter", "recipes", "--help"),
    ("exporter", "--show-completion", "bash"),
    ("headwise", "--help"),
    ("headwise-server", "--help"),
]


@pytest.mark.parametrize("words", BRIEF, ids=" ".join)
def test_help_imports_no_heavy_package(words: tuple[str, ...]) -> None:
    """Help, version and completion answer at once: what takes seconds to import waits for a command that needs it."""
    code = f"""
import sys
try:
    {start(*words)}
finally:
    imported = {HEAVY!r} & set(sys.modules)
    assert not imported, imported
"""
    process = run(code)
    assert process.returncode == 0, process.stderr
    assert process.stdout


@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}])
@pytest.mark.parametrize("words", [*BRIEF, ("exporter", "recipes")], ids=" ".join)
def test_output_fits_the_terminals_encoding(words: tuple[str, ...], encoding: dict[str, str]) -> None:
    """Boxes are drawn with what the encoding has; nothing is an error."""
    process = run(start(*words), **encoding, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.isascii()


def test_text_that_an_encoding_lacks_is_escaped_and_bars_are_drawn_plainly() -> None:
    """Any script can be read again, and columns keep their width."""
    text = ascii("█│ 数 \udce9")
    code = f"from headwise.entry import _output\nwith _output('headwise'): print({text})"
    assert run(code, PYTHONIOENCODING="ascii").stdout == "#| \\u6570 \\udce9\n"


@pytest.mark.parametrize("words", [*BRIEF, ("exporter", "recipes", "--json")], ids=" ".join)
def test_closed_pipe_ends_the_command_quietly(words: tuple[str, ...]) -> None:
    """As under `| head`: no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with processes.start([sys.executable, "-c", start(*words)], stdout=writing, stderr=processes.PIPE) as process:
        os.close(writing)
        _, errors = process.communicate(timeout=processes.LONG_SECONDS)
    assert (process.returncode, errors) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [("--version",), ("--help",), ("recipes",), ("recipes", "--json")], ids=" ".join)
def test_full_disk_ends_the_command_with_one_line(words: tuple[str, ...]) -> None:
    """Where its output goes to a file that cannot grow."""
    command = [sys.executable, "-c", start("exporter", *words)]
    with (
        Path("/dev/full").open("w", encoding="utf-8") as full,
        processes.start(command, stdout=full, stderr=processes.PIPE) as process,
    ):
        _, errors = process.communicate(timeout=processes.LONG_SECONDS)
    line = "exporter: cannot write the output: No space left on device.\n"
    assert (process.returncode, errors) == (1, line)


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("headwise", "headwise cla", "classify"),
        ("headwise-server", "headwise-server --max-b", "--max-batch"),
        ("exporter", "exporter bui", "build"),
        ("exporter", "exporter build --dataset ci", "cifar100"),
        ("exporter", "exporter train --dataset fol", "folder:"),
        ("exporter", "exporter train --init checkpoint:dig", "checkpoint:digits"),
        ("exporter", "exporter prune --criterion ta", "taylor taylor*snp taylor*distinct"),
    ],
)
def test_shell_completes_commands_options_and_values(command: str, words: str, expected: str) -> None:
    """What --install-completion has bash ask for."""
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    script = Path(sys.executable).parent / command
    process = processes.run(
        [script],
        check=True,
        env={**os.environ, variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
    )
    assert process.stdout.split() == expected.split()
