"""A training recorded, its weights shipped."""

import json
from pathlib import Path

import record_training
import support
from headwise_exporter.model.checkpoints import load_model

RECORD = json.loads((Path(__file__).parents[2] / "results/digits/training.json").read_text("utf-8"))


def test_training_is_recorded_with_its_weights(built: Path, tmp_path: Path) -> None:
    """With all that results/digits/training.json has; accuracy of the weights in half precision; a curve."""
    folders = ("--results", tmp_path / "results", "--checkpoints", tmp_path / "checkpoints")
    done = support.script(record_training.main, built / "run", "small", *folders)
    record = json.loads((tmp_path / "results/small/training.json").read_text("utf-8"))
    assert set(RECORD) <= set(record)
    assert list(record["dataset"]) == list(RECORD["dataset"])
    assert list(record["test"]) == list(RECORD["test"])
    assert record["test"]["images"] == 360
    assert record["minutes"] > 0
    assert load_model(tmp_path / "checkpoints/small.safetensors").config == support.small_config()
    expected = f"small: {100 * record['test']['accuracy']:.2f} %"
    assert expected in (tmp_path / "results/small/training.svg").read_text("utf-8")
    assert expected.replace(":", ": test accuracy") in done.stdout
