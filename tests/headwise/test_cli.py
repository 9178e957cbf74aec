"""The entry point without its extra."""

import subprocess
import sys

import support


def test_command_without_its_extra_says_what_to_install() -> None:
    """The client's base has no typer and rich; the command then names the extra."""
    code = "import sys; sys.modules['typer'] = None; from headwise.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=support.LONG_SECONDS
    )
    assert found.returncode == 1
    assert found.stderr == "headwise: the command needs typer and rich: pip install 'headwise[cli]'\n"
