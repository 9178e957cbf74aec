"""Studies of a finished run: done once, and going on where they stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.nodes.measurements import load_measurements, save_measurements
from headwise_exporter.stages.run import (
    COMPARISON,
    COMPARISON_SO_FAR,
    DENSE_MEASUREMENTS,
    run_comparison,
    run_subsets,
)
from headwise_exporter.stages.study import compare_stage, subsets_stage
from headwise_exporter.studies import comparison
from headwise_exporter.studies.settings import ComparisonSettings, SubsetSettings
from headwise_exporter.studies.subsets import CRITERIA
from headwise_exporter.training.loop import train
from support import small_recipe

TRAINING = small_recipe().training
SMALL_COMPARISON = ComparisonSettings(shares=(0.5,), mask_by=("andc", "random"), seeds=2, images=100)


def counted_trainings(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> Callable[[], int]:
    """How many fine-tuning runs there were; one of them is stopped as by Ctrl-C."""
    trainings = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal trainings
        trainings += 1
        if trainings == stop_at:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(comparison, "train", counted)
    return lambda: trainings


def test_stopped_comparison_goes_on_after_its_last_row(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed twice, and the record is that of a comparison that did not stop."""
    data = load(DatasetSettings("digits"))
    compare_stage(run, SMALL_COMPARISON, TRAINING, "validation", data, progress)
    whole = run_comparison(run)
    (run / COMPARISON).unlink()
    trainings = counted_trainings(monkeypatch, stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        compare_stage(run, SMALL_COMPARISON, TRAINING, "validation", data, progress)
    assert compare_stage(run, SMALL_COMPARISON, TRAINING, "validation", data, progress)
    assert trainings() == 4 + 3
    assert run_comparison(run) == whole
    assert not compare_stage(run, SMALL_COMPARISON, TRAINING, "validation", data, progress)


def test_rows_of_another_comparison_are_not_taken(run: Path) -> None:
    """What was stopped with other settings starts over."""
    data = load(DatasetSettings("digits"))
    (run / COMPARISON_SO_FAR).write_text(json.dumps({"identity": {}, "rows": [{"mask_by": "luck"}]}), "utf-8")
    compare_stage(run, replace(SMALL_COMPARISON, seeds=1), TRAINING, "validation", data, progress)
    assert [row["mask_by"] for row in run_comparison(run)["rows"]] == ["dense", "andc", "random"]


def test_rows_on_other_measurements_are_not_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks rest on the measurements: measured again, a stopped comparison starts over."""
    data, settings = load(DatasetSettings("digits")), replace(SMALL_COMPARISON, seeds=1)
    trainings = counted_trainings(monkeypatch, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        compare_stage(run, settings, TRAINING, "validation", data, progress)
    measured = load_measurements(run / DENSE_MEASUREMENTS)
    with torch.no_grad():
        measured.probes["encoders.0.heads"].fc.weight.mul_(2)
    save_measurements(run / DENSE_MEASUREMENTS, measured)
    compare_stage(run, settings, TRAINING, "validation", data, progress)
    assert trainings() == 3 + 3


def test_removal_for_subsets_is_done_once(run: Path) -> None:
    """Every criterion at every share, and the same settings again have nothing to do."""
    data, settings = load(DatasetSettings("digits")), SubsetSettings(labels=3, subsets=2, images=40)
    assert subsets_stage(run, settings, "validation", data, progress)
    removal = run_subsets(run)
    assert len(removal["results"]) == len(CRITERIA) * len(settings.shares)
    assert not subsets_stage(run, settings, "validation", data, progress)
