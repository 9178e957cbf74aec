"""Masked models, fine-tuned several ways."""

import json
from pathlib import Path

import fine_tuning
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/cifar100/fine_tuning.json").read_text("utf-8"))


def test_every_training_of_every_mask_is_recorded(built: Path, tmp_path: Path) -> None:
    """In the keys of results/cifar100/fine_tuning.json; printed with the same figures."""
    small = ("--images", "64", "--threads", "1", "--results", tmp_path)
    done = support.script(fine_tuning.main, built / "run", "digits", *small)
    record = json.loads((tmp_path / "digits/fine_tuning.json").read_text("utf-8"))
    assert list(record) == list(RECORD)
    assert (record["split"], record["images"], record["training_images"]) == ("validation", 359, 64)
    assert [list(row) for row in record["rows"]] == [list(RECORD["rows"][0])] * 20
    trainings = [(row["batch_size"], row["learning_rate"]) for row in record["rows"] if row["mask_by"] == "andc"]
    assert trainings == [*fine_tuning.TRAININGS]
    assert f"{100 * record['rows'][-1]['accuracy']:.2f}" in done.stdout


def test_masks_at_once_are_the_same_whatever_comes_after(built: Path, tmp_path: Path) -> None:
    """Only the fine-tuning differs between the trainings."""
    support.script(fine_tuning.main, built / "run", "digits", "--images", "32", "--results", tmp_path)
    rows = json.loads((tmp_path / "digits/fine_tuning.json").read_text("utf-8"))["rows"]
    for mask_by in ("dense", *fine_tuning.MASK_BY):
        assert len({row["masked_accuracy"] for row in rows if row["mask_by"] == mask_by}) == 1
