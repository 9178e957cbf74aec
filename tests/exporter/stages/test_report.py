"""The stages that write the page about a run, and what they need for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headwise_exporter.data.base import Dataset, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import split_images
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.progress import silent
from headwise_exporter.stages.report import pictures_chosen, report_stage
from headwise_exporter.stages.run import COMPARISON, PRUNED, PRUNING, VALIDATION
from headwise_exporter.stages.study import compare_stage
from headwise_exporter.studies.settings import ComparisonSettings
from headwise_exporter.training.evaluation import evaluate
from support import small_recipe


@pytest.fixture
def loaded() -> list[str]:
    """An entry for each time that the data set was loaded."""
    return []


@pytest.fixture
def digits(loaded: list[str]) -> Callable[[], Dataset]:
    """Loads the run's data set."""

    def read() -> Dataset:
        loaded.append("digits")
        return load(DatasetSettings("digits"))

    return read


def record(run: Path) -> dict[str, Any]:
    """Figures of the validation images."""
    values: dict[str, Any] = json.loads((run / VALIDATION).read_text("utf-8"))
    return values


def test_errors_are_those_of_the_pruned_model(run: Path, digits: Callable[[], Dataset]) -> None:
    """Counted again with the model of the run's folder."""
    data = digits()
    evaluation = evaluate(load_model(run / PRUNED), split_images(data, "validation"))
    kept = record(run)
    assert kept["models"]["pruned"]["correct"] == evaluation.correct
    wrong = {index for index, correct in enumerate(evaluation.correct_N.tolist()) if not correct}
    assert {error["image"] for error in kept["errors"]} <= wrong
    labels_N = data.validation.labels_N
    assert all(error["label"] == labels_N[error["image"]] for error in kept["errors"])


def test_page_is_drawn_again_without_the_data_set(run: Path, digits: Callable[[], Dataset], loaded: list[str]) -> None:
    """Both models were run on it once."""
    before = (run / VALIDATION).read_bytes()
    (run / "report/report.html").unlink()
    assert report_stage(run, digits)[1]
    assert not report_stage(run, digits)[1]
    assert loaded == []
    assert (run / VALIDATION).read_bytes() == before


def test_another_pruned_model_is_validated_again(run: Path, digits: Callable[[], Dataset], loaded: list[str]) -> None:
    """Here the dense one in its place."""
    shutil.copy(run / "dense.safetensors", run / PRUNED)
    assert report_stage(run, digits)[1]
    assert loaded == ["digits"]
    kept = record(run)
    assert kept["models"]["pruned"] == kept["models"]["dense"]
    assert "Here no units were removed" in (run / "report/report.html").read_text("utf-8")


def test_pictures_stay_away_until_they_are_asked_for(run: Path, digits: Callable[[], Dataset]) -> None:
    """From the page, its record and the run's figures; the same errors are named."""
    with_pictures = record(run)
    assert pictures_chosen(run)
    for pictures in (False, None):  # the second is what later commands say
        report_stage(run, digits, pictures=pictures)
        assert not pictures_chosen(run)
        assert "<img" not in (run / "report/report.html").read_text("utf-8")
        for name in (VALIDATION, "report/report.json"):
            assert "data:image" not in (run / name).read_text("utf-8")
        assert "Pictures were left out" in (run / "report/report.html").read_text("utf-8")
    report_stage(run, digits, pictures=True)
    assert record(run) == with_pictures


def test_choice_of_another_run_holds_where_nothing_was_said(run: Path, tmp_path: Path) -> None:
    """As for a model for some of the labels."""
    assert pictures_chosen(tmp_path)
    (run / VALIDATION).write_text(json.dumps(record(run) | {"pictures": False}))
    assert not pictures_chosen(tmp_path, run)


def test_run_that_was_not_pruned_has_a_page(run: Path, digits: Callable[[], Dataset]) -> None:
    """With lines that say what is missing."""
    for name in (PRUNED, PRUNING, VALIDATION):
        (run / name).unlink()
    path, done = report_stage(run, digits)
    assert done
    html = path.read_text("utf-8")
    assert html.count('<p class="absent">') >= 4
    assert "<h1>digits</h1>" in html
    assert "`exporter prune`" not in html


def test_comparison_of_an_earlier_release_takes_its_labels_from_the_data_set(
    run: Path, digits: Callable[[], Dataset], loaded: list[str]
) -> None:
    """They were not recorded; what comes of them is the same."""
    settings = ComparisonSettings(shares=(0.1,), mask_by=("andc",), seeds=1, images=60)
    compare_stage(run, settings, small_recipe().training, "validation", digits(), silent)
    loaded.clear()
    changes = []
    for _ in range(2):
        report_stage(run, digits)
        changes.append(json.loads((run / "report/report.json").read_text("utf-8"))["label_changes"])
        compared = json.loads((run / COMPARISON).read_text("utf-8"))
        (run / COMPARISON).write_text(json.dumps({key: compared[key] for key in compared if key != "labels_N"}))
    assert changes[0] == changes[1]
    assert loaded == ["digits"]
