"""A pruned model, fine-tuned several ways."""

import json
from pathlib import Path

import pytest
import recovery
import support


def test_every_training_of_the_pruned_model_is_recorded(built: Path, tmp_path: Path) -> None:
    """With what it learnt from and what it came to; printed with the same figures, and smaller than the dense model."""
    small = ("--images", "64", "--epochs", "1", "--threads", "1", "--results", tmp_path)
    done = support.script(recovery.main, built / "run", "digits", *small)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "digits/recovery.json").read_text("utf-8"))
    assert (record["split"], record["images"], record["training_images"]) == ("validation", 359, 64)
    assert record["pruned"]["macs"] < record["dense"]["macs"]
    tried = [(row["label_share"], row["learning_rate"]) for row in record["rows"]]
    assert tried == [(settings.label_share, rate) for settings, rate in recovery.TRAININGS]
    assert f"{100 * record['rows'][-1]['accuracy']:.2f}" in done.stdout


def test_trainings_start_from_the_same_weights(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training twice comes to the same."""
    twice = (recovery.TRAININGS[0], recovery.TRAININGS[2], recovery.TRAININGS[0])
    small = ("--images", "64", "--epochs", "1", "--threads", "1", "--results", tmp_path)
    monkeypatch.setattr(recovery, "TRAININGS", twice)
    support.script(recovery.main, built / "run", "digits", *small)
    rows = json.loads((tmp_path / "digits/recovery.json").read_text("utf-8"))["rows"]
    assert rows[0] == rows[2] != rows[1]
