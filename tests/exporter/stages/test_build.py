"""The stages of a build, from files to files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support
from headwise.bundle import file_sha256
from headwise_exporter import recipes
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import CheckpointError, save_model
from headwise_exporter.model.initial_weights import shipped_checkpoint
from headwise_exporter.model.shipped import RANDOM
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.build import (
    dataset_fingerprint,
    prune_stage,
    train_stage,
)
from headwise_exporter.stages.measure import findings_stage, measure_stage
from headwise_exporter.stages.run import DENSE, PRUNED, training_record
from headwise_exporter.training.loop import TrainingError


def carry_out_all(run: Path, seed: int = 0, epochs: int = 2) -> list[bool]:
    """All stages, with a training seed and a number of probe epochs; which of them ran."""
    recipe, data = support.small_recipe(), load(DatasetSettings("digits"))
    recipe = replace(recipe, training=replace(recipe.training, seed=seed), probes=replace(recipe.probes, epochs=epochs))
    return [
        train_stage(run, recipe, data, progress),
        measure_stage(run, recipe.probes, data, progress),
        findings_stage(run, recipe.findings, recipe.probes, data, progress),
        prune_stage(run, recipe, data, progress),
    ]


def test_finished_run_has_nothing_to_do(run: Path) -> None:
    """Unchanged settings and files: every stage is skipped."""
    assert carry_out_all(run) == [False] * 4


def test_changed_setting_redoes_its_stage_and_those_after_it(run: Path) -> None:
    """Other probes leave the trained model as it is."""
    before = file_sha256(run / DENSE)
    assert carry_out_all(run, epochs=1) == [False, True, True, True]
    assert file_sha256(run / DENSE) == before


def test_lost_result_is_made_again_and_is_the_same(run: Path) -> None:
    """Everything is seeded: the pruned model that was deleted comes back bit for bit."""
    before = file_sha256(run / PRUNED)
    (run / PRUNED).unlink()
    assert carry_out_all(run) == [False, False, False, True]
    assert file_sha256(run / PRUNED) == before


def test_fingerprint_is_of_every_pixel_and_label() -> None:
    """One pixel more or less is another data set."""
    digits = load(DatasetSettings("digits"))
    before = dataset_fingerprint(digits)
    assert dataset_fingerprint(load(DatasetSettings("digits"))) == before
    digits.test.images_NYXC[0, 0, 0, 0] ^= 1
    assert dataset_fingerprint(digits) != before


def digits_recipe(**settings: Any) -> Recipe:
    """The recipe of the digits, one epoch long, as one that starts from the shipped checkpoint."""
    recipe = recipes.digits()
    training = replace(recipe.training, epochs=1, warm_up_epochs=0)
    return replace(recipe, training=training, start="checkpoint:digits", **settings)


def trained(run: Path, recipe: Recipe, init: str | None = None) -> tuple[str, str | None]:
    """What the training says of its initial weights, and the hash that the stage knows them by."""
    lines: list[str] = []
    train_stage(run, recipe, support.few_images(load(DatasetSettings("digits")), 64), progress, init, lines.append)
    settings = json.loads((run / "train.stage.json").read_text("utf-8"))["settings"]
    return "\n".join(lines), settings["initial_weights"]


def test_training_starts_where_its_recipe_says(tmp_path: Path) -> None:
    """The shipped weights are taken, in one line that says how not to; the stage is known by their hash."""
    line, known = trained(tmp_path, digits_recipe())
    assert line.startswith("initial weights from checkpoint:digits: ")
    assert line.endswith("; --init none starts from random weights")
    assert known == file_sha256(shipped_checkpoint("digits"))
    assert training_record(tmp_path)["initial_weights"] == "checkpoint:digits"


def test_training_starts_from_random_weights_on_request(tmp_path: Path) -> None:
    """`none` is no file, and it is another training than that from the recipe's weights."""
    assert trained(tmp_path, digits_recipe(), RANDOM) == ("", None)
    assert training_record(tmp_path)["initial_weights"] is None
    assert trained(tmp_path, digits_recipe())[1] is not None


def test_recipes_weights_that_do_not_fit_are_left_out_aloud(tmp_path: Path) -> None:
    """A changed model starts from random weights and says so; weights that were asked for are an error."""
    changed = digits_recipe(model=replace(recipes.digits().model, heads=8))
    line, known = trained(tmp_path, changed)
    assert line.startswith("initial weights are random: checkpoint:digits, where this recipe starts, does not fit")
    assert known is None
    with pytest.raises(CheckpointError, match="of a model of heads 8, found heads 4 in checkpoint:digits"):
        trained(tmp_path / "asked", changed, "checkpoint:digits")


def test_no_epochs_need_a_classifier_head_for_the_labels(tmp_path: Path) -> None:
    """A classifier head that stays random is no model."""
    save_model(tmp_path / "x.safetensors", CCT(recipes.digits().model.config(8, 1, 7)))
    recipe = digits_recipe()
    recipe = replace(recipe, training=replace(recipe.training, epochs=0))
    with pytest.raises(TrainingError, match="expected weights for these 10 labels"):
        trained(tmp_path, recipe, str(tmp_path / "x.safetensors"))
