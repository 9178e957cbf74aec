"""`exporter specialise`, as a person runs it: a bundle for some labels of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support
from headwise.bundle import file_sha256, read_manifest
from headwise.v1.bundle_pb2 import Bundle, PruningProvenance
from headwise_exporter.commands.specialise import specialisation_table
from headwise_exporter.data.label_subsets import OTHER
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.pruning.removal import Original
from headwise_exporter.stages import build
from headwise_exporter.stages.original import original_of, specialised_from
from headwise_exporter.stages.run import DENSE, PRUNED, trained_dataset
from headwise_exporter.stages.specialise import (
    SpecialisationError,
    check_pruned,
    specialised_name,
    specialised_recipe,
)
from support import exporter

LABELS = "8,3,9"
SMALL = ("--macs", "0.7", "--max-drop", "100", "--set", "prune.search.images=50", "--set", "quantize.engines=[]")


def specialised(run: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """What the command prints as JSON."""
    done = exporter("specialise", run, "--labels", LABELS, "--out", out, "--json", *SMALL, *arguments)
    assert done.exit_code == 0, done.output
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_bundle_is_of_the_labels_alone_and_passes_its_checks(run: Path, tmp_path: Path) -> None:
    """Golden set and the sum of the parts too; smaller than the dense model, with what it was made from."""
    printed = specialised(run, tmp_path / "models")
    folder = Path(printed["folder"])
    assert folder.parent.name == f"digits_{specialised_name(LABELS.split(','), other=False)}"
    manifest = read_manifest(folder)
    assert list(manifest.labels) == LABELS.split(",")
    made = manifest.specialisation
    assert (made.run, made.dense_sha256, made.other) == ("run", file_sha256(run / DENSE), False)
    assert list(made.labels) == [str(digit) for digit in range(10)]
    assert manifest.metrics.macs_pruned <= 0.7 * manifest.metrics.macs_dense
    assert manifest.metrics.test_images == 108
    checked = exporter("verify", folder, "--json")
    assert checked.exit_code == 0, checked.output
    assert {check["name"] for check in json.loads(checked.stdout)} >= {"completeness of the split"}


def test_run_for_labels_is_a_run_as_any_other(run: Path, tmp_path: Path) -> None:
    """Done once, all is up to date; other commands work on its folder; the same labels are shown in a table."""
    specialised(run, tmp_path / "models")
    again = exporter("specialise", run, "--labels", LABELS, "--out", tmp_path / "models", *SMALL)
    assert again.exit_code == 0, again.output
    for stage in ("specialise", "measure", "findings", "prune", "report", "export"):
        assert f"{stage}: up to date" in again.stderr
    assert "specialised" in again.stdout
    assert "107 validation images" in " ".join(again.stdout.split())
    folder = run / "specialised" / specialised_name(LABELS.split(","), other=False)
    evaluated = exporter("evaluate", "--run", folder, "--split", "validation", "--json")
    assert [row["images"] for row in json.loads(evaluated.stdout)] == [107] * 3


def test_other_stands_for_all_other_labels(run: Path, tmp_path: Path) -> None:
    """It is the last label and a row of the head; half of the images are of it; the original is compared as a whole."""
    own = tmp_path / "few"
    printed = specialised(run, tmp_path / "models", "--other", "--run", str(own), "--name", "few")
    assert printed["labels"] == [*LABELS.split(","), OTHER]
    assert (printed["name"], printed["specialisation"]["other"]) == ("few", True)
    assert load_model(own / PRUNED).config.labels == 4
    assert printed["metrics"]["test_images"] == 2 * 108
    assert exporter("verify", printed["folder"]).exit_code == 0
    data = trained_dataset(own)
    original = original_of(own, build.split_images(data, "validation"))
    assert isinstance(original, Original)
    assert original.validation_accuracy == printed["specialisation"]["dense_validation_accuracy"]
    assert original.validation_accuracy == printed["pruning"]["dense_validation_accuracy"]


def test_run_for_all_labels_has_no_original(run: Path) -> None:
    """What is pruned learns from the dense model itself."""
    assert specialised_from(run) is None
    assert original_of(run, build.split_images(trained_dataset(run), "validation")) is None


def test_labels_come_from_a_file_too(run: Path, tmp_path: Path) -> None:
    """A label a line. One of both ways, and labels that the data set has."""
    file = tmp_path / "labels.txt"
    file.write_text("1\n\n12\n", "utf-8")
    unknown = exporter("specialise", run, "--labels-file", file)
    assert unknown.exit_code == 1
    assert "expected labels of the data set, found '12'" in unknown.stderr
    assert exporter("specialise", run, "--labels-file", file, "--labels", "1,2").exit_code == 2
    assert exporter("specialise", run).exit_code == 2
    assert not (run / "specialised").exists()


def test_fine_tuning_takes_as_many_images_as_of_the_whole_data_set() -> None:
    """A tenth of the images for ten times the epochs; no masks, and what the run was built to does not bind."""
    recipe = support.small_recipe()
    recipe = replace(recipe, prune=replace(recipe.prune, epochs=2))
    few = specialised_recipe(recipe, 5000, 500).prune
    assert (few.epochs, few.mask_by, few.criterion, few.removal, few.max_drop_points) == (
        20,
        "none",
        "taylor",
        "search",
        0.5,
    )


def test_model_that_loses_more_than_it_may_is_not_exported(tmp_path: Path) -> None:
    """Even with all its units, which `other` makes possible: one error with both figures."""
    record = {
        "settings": {},
        "provenance": {
            "max_drop": 0.005,
            "dense_validation_accuracy": 0.9,
            "candidates": [{"criterion": "none", "validation_accuracy": 0.8, "chosen": True}],
        },
    }
    (tmp_path / "pruning.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(
        SpecialisationError, match=r"at most 0.5 points below the 90.00 % .* all its units it has 80.00 %"
    ):
        check_pruned(tmp_path)


@pytest.mark.parametrize(("speedup", "missed"), [(3.0, False), (2.4, True)])
def test_speedup_that_was_not_reached_is_said_of_specialised_models_too(speedup: float, missed: bool) -> None:
    """Under their own table, which is all that the command shows."""
    pruning = PruningProvenance(criterion="taylor", cost="latency", speedup_asked=3.0, speedup=speedup)
    caption = str(specialisation_table(Bundle(pruning=pruning)).caption)
    assert f"1/{speedup:.2f} of the latency" in caption
    assert ("not the 1/3.00 asked for" in caption) == missed
