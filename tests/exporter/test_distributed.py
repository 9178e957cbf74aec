"""Training on two processes is training on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import support

from exporter import distributed

TRAIN = """
import json, pathlib, sys
import support, torch
from dataclasses import asdict
from exporter import distributed
from exporter.cct import CCT
from exporter.training import TrainingSettings, train
torch.set_num_threads(1)
with distributed.process_group():
    torch.manual_seed(0)
    model = CCT(support.small_config())
    data = support.random_images(torch.arange(75) % 10)
    result = train(model, data, TrainingSettings(epochs=3, batch_size=16, warm_up_epochs=1))
    if distributed.is_main():
        weight = model.classifier.fc.weight.detach().flatten().tolist()
        told = {"processes": distributed.world_size(), "losses": [e.loss for e in result.epochs], "weight": weight}
        pathlib.Path(sys.argv[1]).write_text(json.dumps(told))
"""


def trained(folder: Path, *launcher: str) -> dict[str, object]:
    """Train by a launcher, and give what the main process tells."""
    script = folder / "train.py"
    script.write_text(TRAIN)
    environment = {**os.environ, "PYTHONPATH": str(Path(support.__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(folder / "told.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=200, env=environment)
    return json.loads((folder / "told.json").read_text())


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    """Under torchrun, with the same batches over all, also where a batch does not divide: same losses and weights."""
    one = trained(tmp_path)
    two = trained(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weight"] == pytest.approx(one["weight"], abs=2e-4)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun there is one process, the main one."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group():
        assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
        distributed.barrier()
