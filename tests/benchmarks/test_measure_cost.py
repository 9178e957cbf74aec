"""Measuring all nodes beside an evaluation."""

import json
from pathlib import Path

import measure_cost
import pytest
import support

RECORD = json.loads((Path(__file__).parents[2] / "results/measure_cost.json").read_text("utf-8"))
SMALL = ("--recipe", "digits", "--images", "20", "--rounds", "1", "--threads", "1")


def test_figures_are_those_of_the_record() -> None:
    """In the keys of results/measure_cost.json; silencing nodes gives the same matrices."""
    printed = json.loads(support.script(measure_cost.main, *SMALL, "--json").stdout)
    assert list(printed) == list(RECORD)
    assert printed["nodes"] == 3 * (128 + 256 + 128) + 128
    assert printed["nodes_without_classifier_head"] == printed["nodes"] - 128
    assert printed["largest_difference"] < 1e-12
    assert printed["silencing_sample"] == 3


def test_table_has_every_figure() -> None:
    """With model, images and rounds above it."""
    shown = support.script(measure_cost.main, *SMALL).stdout
    assert "digits, 20 images, 1 threads, 1 interleaved rounds" in shown
    assert "silencing over measuring" in shown


def test_every_label_needs_an_image() -> None:
    """Fewer are refused before anything is measured."""
    refused = support.script(measure_cost.main, "--recipe", "digits", "--images", "9")
    assert refused.exit_code == 2
    assert "expected at least 10" in refused.stderr


def test_silencing_that_disagrees_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is printed then."""
    monkeypatch.setattr(measure_cost, "TOLERANCE", -1.0)
    failed = support.script(measure_cost.main, *SMALL)
    assert failed.exit_code == 1
    assert "evaluation pass" not in failed.stdout
