"""A training recorded, its weights shipped."""

import json
from pathlib import Path

import record_training
import support
import torch
from headwise_exporter.model.checkpoints import load_model, save_model

RECORD = json.loads((Path(__file__).parents[2] / "results/digits/training.json").read_text("utf-8"))


def test_training_is_recorded_with_its_weights(built: Path, tmp_path: Path) -> None:
    """With all that results/digits/training.json has; accuracy of the weights in half precision; a curve."""
    folders = ("--results", tmp_path / "results", "--checkpoints", tmp_path / "checkpoints")
    done = support.script(record_training.main, built / "run", "small", *folders)
    record = json.loads((tmp_path / "results/small/training.json").read_text("utf-8"))
    assert set(RECORD) <= set(record)
    assert set(RECORD["dataset"]) <= set(record["dataset"])
    assert list(record["test"]) == list(RECORD["test"])
    assert record["test"]["images"] == 360
    assert record["minutes"] > 0
    assert load_model(tmp_path / "checkpoints/small.safetensors").config == support.small_config()
    expected = f"small: {100 * record['test']['accuracy']:.2f} %"
    assert expected in (tmp_path / "results/small/training.svg").read_text("utf-8")
    assert expected.replace(":", ": test accuracy") in done.stdout


def test_weights_may_be_averaged_with_others(built: Path, tmp_path: Path) -> None:
    """The mean of a model and itself is itself, and of two is half way; the record says so."""
    folders = ("--results", tmp_path / "results", "--checkpoints", tmp_path / "checkpoints")
    dense, other = built / "run" / "dense.safetensors", tmp_path / "other.safetensors"
    save_model(other, support.random_model())
    for average in (dense, other):
        assert (
            support.script(record_training.main, built / "run", "small", *folders, "--average", average).exit_code == 0
        )
        shipped = load_model(tmp_path / "checkpoints/small.safetensors").state_dict()
        pair = [load_model(path).state_dict() for path in (dense, average)]
        for name, tensor in shipped.items():
            mean = (pair[0][name] + pair[1][name]) / 2
            torch.testing.assert_close(tensor.float(), mean, atol=1e-3, rtol=1e-3)
    record = json.loads((tmp_path / "results/small/training.json").read_text("utf-8"))
    assert record["averaged_with"] == str(other)
