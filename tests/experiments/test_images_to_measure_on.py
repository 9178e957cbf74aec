"""Masks from nodes that were measured on few images."""

import json
from pathlib import Path

import images_to_measure_on
import pytest
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/flowers102/images_to_measure_on.json").read_text("utf-8"))


@pytest.fixture(autouse=True)
def _few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_to_measure_on, "IMAGES_OF_A_LABEL", (1, 150, 1000))


def rows(built: Path, folder: Path, *arguments: str) -> list[tuple[str, int, str, int]]:
    """Split, images of a label, masks and number of draws of each recorded row."""
    small = ("--threads", "1", "--results", folder, *arguments)
    done = support.script(images_to_measure_on.main, built / "run", "digits", *small)
    record = json.loads((folder / "digits/images_to_measure_on.json").read_text("utf-8"))
    assert list(record) == list(RECORD)
    assert {tuple(row) for row in record["rows"]} == {tuple(RECORD["rows"][0])}
    assert "wanda*overlap" in done.stdout
    return [(row["measured_on"], row["of_a_label"], row["mask_by"], len(row["accuracies"])) for row in record["rows"]]


def test_draws_end_where_the_images_do(built: Path, tmp_path: Path) -> None:
    """Of the digits' training images no label has 150: they are all taken, once; 1,000 are not tried."""
    recorded = rows(built, tmp_path)
    assert recorded[:2] == [("train", 1, "andc", 3), ("train", 1, "wanda*overlap", 3)]
    assert [(split, draws) for split, _, _, draws in recorded[2:4]] == [("train", 1)] * 2
    assert 100 < recorded[2][1] < 150
    assert recorded[4:] == [("", 0, "wanda", 1)]


def test_validation_images_are_measured_on_where_others_are_evaluated(built: Path, tmp_path: Path) -> None:
    """First, all of them."""
    recorded = rows(built, tmp_path, "--split", "test")
    assert [row[0] for row in recorded] == ["validation"] * 2 + ["train"] * 4 + [""]
