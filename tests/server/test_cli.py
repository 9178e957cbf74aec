"""The entry point, before the server itself is there."""

import signal
import sys
from pathlib import Path

import processes
import pytest
import support

SLOW_IMPORT = """
import sys, time, types

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "headwise_server.commands":
            print("importing", flush=True)
            time.sleep(1e6)

from headwise_server.cli import main
sys.meta_path.insert(0, Slow())
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_the_imports_ends_the_process(number: signal.Signals) -> None:
    """Handled from the first moment, as process 1 of a container needs it; nothing to drain, status 0."""
    with processes.start([sys.executable, "-c", SLOW_IMPORT], stdout=processes.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        status = Path(f"/proc/{process.pid}/status").read_text("ascii")
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        assert caught >> (number - 1) & 1
        process.send_signal(number)
        assert process.wait(support.LONG_SECONDS) == 0
