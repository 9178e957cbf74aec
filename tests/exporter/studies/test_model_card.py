"""What the first screen of a run's page says."""

import json
from pathlib import Path
from typing import Any

import pytest
from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bundle
from headwise_exporter.studies.model_card import confused_pairs, label_rows, matrix, tiles


@pytest.fixture
def manifest(bundle: Path) -> Bundle:
    """Of a bundle, which a test may change."""
    return read_manifest(bundle)


@pytest.fixture
def validation(built: Path) -> dict[str, Any]:
    """Of the run that the bundle was made from."""
    record: dict[str, Any] = json.loads((built / "run/validation.json").read_text("utf-8"))
    return record


def test_bundle_has_a_tile_for_all_that_was_asked_of_it(validation: dict[str, Any], manifest: Bundle) -> None:
    """Accuracy on both splits, parameters, operations, time and file size, each beside the dense model's."""
    shown = tiles(validation, manifest)
    assert [tile.title for tile in shown] == [
        "Accuracy on test images",
        "Accuracy on validation images",
        "Parameters",
        "Multiply-accumulates (MACs) for an image",
        "Time for an image",
        "Model file, weights included",
    ]
    assert all(any("dense" in note for note in tile.notes) for tile in shown)
    metrics = manifest.metrics
    assert shown[0].value == f"{100 * metrics.pruned_accuracy:.2f} %"
    assert f"{100 * metrics.dense_accuracy:.2f} %" in shown[0].notes[1]
    assert shown[2].value == f"{metrics.parameters_pruned:,}"
    assert f"dense: {metrics.macs_dense / 1e6:,.2f} M" in shown[3].notes[0]


def test_validation_accuracies_are_those_that_pruning_recorded(validation: dict[str, Any], manifest: Bundle) -> None:
    """They come from the pruned model that the bundle serves, and from the dense one."""
    [chosen] = [candidate for candidate in manifest.pruning.candidates if candidate.chosen]
    shares = {name: model["correct"] / validation["images"] for name, model in validation["models"].items()}
    assert shares["pruned"] == pytest.approx(chosen.validation_accuracy)
    assert shares["dense"] == pytest.approx(manifest.pruning.dense_validation_accuracy)


def test_run_without_a_bundle_has_what_is_known_of_it(validation: dict[str, Any]) -> None:
    """And nothing where it was not validated either."""
    assert len(tiles(validation, None)) == 3
    assert tiles(None, None) == []


def test_what_was_not_timed_has_no_tile(validation: dict[str, Any], manifest: Bundle) -> None:
    """Neither where there is no bench, nor where the pruned model was left out of it."""
    for variant in list(manifest.bench.variants[1:]):
        manifest.bench.variants.remove(variant)
    assert len(tiles(validation, manifest)) == 4
    manifest.ClearField("bench")
    assert len(tiles(validation, manifest)) == 4


def test_time_on_a_busy_machine_is_shown_as_such(validation: dict[str, Any], manifest: Bundle) -> None:
    """Beside the figure."""
    manifest.bench.waiting_share = 0.4
    [time] = [tile for tile in tiles(validation, manifest) if tile.title.startswith("Time")]
    assert "the machine was busy" in time.notes


RECORD: dict[str, Any] = {
    "label_names": ["ant", "bee", "cat"],
    "images_K": [10, 4, 0],
    "correct_K": [7, 4, 0],
    "predicted_K": [7, 6, 1],
    "mistakes": [[0, 1, 2], [0, 2, 1]],
}


def test_labels_of_the_lowest_recall_stand_first() -> None:
    """Those without images stand last; what was never said has no precision."""
    ant, bee, cat = label_rows(RECORD)
    assert (ant.name, ant.recall, ant.precision, ant.mistake) == (
        "ant",
        "70.0 (39.7 to 89.2)",
        "100.0",
        "bee (2 of 10)",
    )
    assert (bee.name, bee.recall[:5], bee.precision, bee.mistake) == ("bee", "100.0", "66.7", "-")
    assert (cat.name, cat.recall, cat.precision) == ("cat", "-", "0.0")
    assert label_rows(RECORD | {"predicted_K": [7, 6, 0]})[2].precision == "-"


def test_most_frequent_mistake_is_the_first_pair() -> None:
    """With its share of the label's images."""
    pairs = confused_pairs(RECORD)
    assert [(pair.label, pair.predicted, pair.images, pair.share) for pair in pairs] == [
        ("ant", "bee", 2, "20"),
        ("ant", "cat", 1, "10"),
    ]


def test_few_labels_have_a_matrix_and_many_have_none() -> None:
    """A table of many labels would be too wide to read."""
    assert matrix(RECORD) == [[7, 2, 1], [0, 4, 0], [0, 0, 0]]
    assert matrix(RECORD | {"label_names": [str(label) for label in range(21)]}) is None
