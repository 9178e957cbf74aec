"""New models under the masks of a trained one."""

import json
import shutil
from pathlib import Path

import masked_training
import pytest
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/cifar100/masked_training.json").read_text("utf-8"))


def test_every_mask_is_trained_once_and_taken_from_the_run_after_that(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the keys of results/cifar100/masked_training.json; a second call with the same settings trains nothing."""
    run = Path(shutil.copytree(built / "run", tmp_path / "run"))
    small = ("--epochs", "1", "--images", "64", "--seeds", "1", "--threads", "1", "--results", tmp_path)
    first = support.script(masked_training.main, run, "digits", *small)
    written = (tmp_path / "digits/masked_training.json").read_text("utf-8")
    record = json.loads(written)
    assert list(record) == list(RECORD)
    assert list(record["settings"]) == list(RECORD["settings"])
    assert [(row["share"], row["mask_by"]) for row in record["results"]] == [
        (1.0, "dense"),
        *((0.1, mask_by) for mask_by in masked_training.MASK_BY),
    ]
    assert record["training"]["epochs"] == 1
    monkeypatch.setattr(masked_training, "trained_row", None)
    assert support.script(masked_training.main, run, "digits", *small).stdout == first.stdout
    assert (tmp_path / "digits/masked_training.json").read_text("utf-8") == written


def test_rows_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    """Nor is there anything to take before the first call."""
    path = tmp_path / "masked_training.json"
    assert masked_training.known_rows(path, {"epochs": 1}) == []
    path.write_text(json.dumps({"identity": {"epochs": 2}, "rows": [{}]}))
    assert masked_training.known_rows(path, {"epochs": 1}) == []
