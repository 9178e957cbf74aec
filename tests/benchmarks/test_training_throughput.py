"""A training step of ours beside a plain one."""

import json
from pathlib import Path

import pytest
import support
import training_throughput

RECORD = json.loads((Path(__file__).parents[2] / "results/training_throughput.json").read_text("utf-8"))
SMALL = ("--recipe", "digits", "--batch", "4", "--rounds", "1", "--threads", "1")


@pytest.fixture(autouse=True)
def _small_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_throughput, "MATRIX_SIDE", 64)


def test_each_optimiser_has_a_row_as_the_record_has() -> None:
    """In the keys of results/training_throughput.json; the ratio is that of the rates."""
    printed = json.loads(support.script(training_throughput.main, *SMALL, "--json").stdout)
    assert list(printed) == list(RECORD)
    assert [(row["recipe"], row["optimizer"], row["batch"]) for row in printed["rows"]] == [
        ("digits", "adamw", 4),
        ("digits", "muon", 4),
    ]
    for row in printed["rows"]:
        assert list(row) == list(RECORD["rows"][0])
        assert row["ratio"] == pytest.approx(row["images_per_second"] / row["plain_images_per_second"])  # of one round


def test_table_has_a_line_for_each_row() -> None:
    """Recipe, optimiser and batch."""
    shown = support.script(training_throughput.main, *SMALL).stdout
    assert "digits, adamw, 4" in shown
    assert "digits, muon, 4" in shown


def test_unknown_recipe_is_refused() -> None:
    """Rather than timed as nothing."""
    refused = support.script(training_throughput.main, "--recipe", "digits", "--recipe", "resnet")
    assert refused.exit_code == 2
    assert "resnet" in refused.stderr


@pytest.mark.parametrize(
    ("recipe", "asked", "expected"), [("cct_7_3x1", None, 16), ("cct_7_3x1", 2, 2), ("cifar100_cpu", None, None)]
)
def test_large_models_get_small_batches_on_a_cpu(recipe: str, asked: int | None, expected: int | None) -> None:
    """Unless another is asked for."""
    if training_throughput.device().type == "cpu" or asked:
        assert training_throughput.batch_of(recipe, asked) == expected
