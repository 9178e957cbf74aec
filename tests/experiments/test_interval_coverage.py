"""Coverage of intervals, of a few samples."""

import json
from pathlib import Path

import interval_coverage
import pytest
import support
from interval_coverage import FIGURES, Shape, coverage


@pytest.mark.parametrize("images", [15, 40])
def test_intervals_have_the_mean_of_as_many_images_and_quantiles_do_not(images: int) -> None:
    """Nearly always; those from the draws' quantiles lie beside it where images are few."""
    for row in coverage(Shape(12, 36, images), samples=40, draws=40, truth_samples=150):
        assert row["deviations_mean"] >= 0.8
        assert row["deviations_mean"] >= row["quantiles_mean"]
        assert row["mean"] < row["all_images"]


def test_coverage_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each shape and ratio, with the machine."""
    monkeypatch.setattr(interval_coverage, "SHAPES", (Shape(4, 8, 5),))
    monkeypatch.setattr(interval_coverage, "TRUTH_SAMPLES", 5)
    done = support.script(interval_coverage.main, "--samples", "3", "--draws", "4", "--results", tmp_path)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "interval_coverage.json").read_text("utf-8"))
    assert [row["figure"] for row in record["rows"]] == list(FIGURES)
    assert record["machine"]["cores"] >= 1
