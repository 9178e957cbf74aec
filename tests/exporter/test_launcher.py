"""A training that torchrun started ends with torchrun."""

import os
import signal
import sys
import threading
from pathlib import Path

import processes
import pytest
import support
from headwise_exporter import launcher

# The command, whose processes say what their numbers are after the first epoch and then stand still: both while they
# sleep, or the main one in a collective with another that does not come.
COMMAND = """
import os, pathlib, sys, time
import support
from headwise_exporter import cli, distributed, launcher, recipes
from headwise_exporter.training import loop
launcher.SECONDS_BETWEEN_LOOKS, launcher.GRACE_SECONDS = 0.05, 0.5
recipes.RECIPES["digits"] = support.small_recipe
total = distributed.total

def stand_still(value):
    pathlib.Path(os.environ["NUMBERS"], str(os.getpid())).touch()
    if os.environ["WHERE"] == "collective" and distributed.is_main():
        return total(value)
    time.sleep(1e6)

distributed.total = stand_still
sys.argv[0] = "exporter"
cli.main()
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--")


@pytest.mark.parametrize("where", ["sleep", "collective"])
def test_processes_end_when_torchrun_is_killed(tmp_path: Path, where: str) -> None:
    """SIGKILL of torchrun while two processes train: both are gone, also one that cannot be interrupted."""
    numbers, command = tmp_path / "numbers", tmp_path / "command.py"
    numbers.mkdir()
    command.write_text(COMMAND)
    settings = {"PYTHONPATH": str(Path(support.__file__).parent), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings, "NUMBERS": str(numbers), "WHERE": where}
    arguments = ("train", "--dataset", "digits", "--run", tmp_path / "run")
    with processes.start([sys.executable, *TORCHRUN, command, *arguments], env=environment) as torchrun:
        support.wait_until(lambda: len(list(numbers.iterdir())) == 2 or torchrun.poll() is not None)
        workers = [int(path.name) for path in numbers.iterdir()]
        assert len(workers) == 2
        torchrun.send_signal(signal.SIGKILL)
        support.wait_until(lambda: all(map(processes.is_gone, workers)))


def test_process_of_no_torchrun_looks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build in the background goes on when the shell that started it is gone."""
    monkeypatch.delenv(launcher.SET_BY_TORCHRUN, raising=False)
    before = threading.active_count()
    launcher.end_with_launcher()
    assert threading.active_count() == before
