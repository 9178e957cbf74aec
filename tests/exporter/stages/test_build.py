"""The stages of a build, from files to files."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from headwise.bundle import file_sha256
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.model.checkpoints import load_measurements, load_model
from headwise_exporter.nodes.findings import FindingsSettings
from headwise_exporter.nodes.heads import agreement, recognising_nodes
from headwise_exporter.nodes.snp import ProbeSettings, measure, recognised_labels, statistics, train_probes
from headwise_exporter.nodes.summary import summarise
from headwise_exporter.stages.build import (
    DENSE,
    DENSE_MEASUREMENTS,
    PRUNED,
    PRUNING_IMAGES,
    RunError,
    dataset_fingerprint,
    findings_stage,
    measure_stage,
    prune_stage,
    pruning_measurements,
    pruning_record,
    run_findings,
    split_images,
    train_stage,
    trained_dataset,
    trained_recipe,
    training_record,
)


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    """A finished run to go on with."""
    return Path(shutil.copytree(built / "run", tmp_path / "run"))


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


def test_run_remembers_its_data_set_and_settings(run: Path) -> None:
    """A stage alone needs the run's folder and nothing else."""
    record = training_record(run)
    assert (record["dataset"]["name"], record["recipe"]["training"]["epochs"]) == ("digits", 3)
    assert trained_recipe(run) == support.small_recipe()
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]
    assert trained_dataset(run).name == "digits"


def test_pruning_is_remembered(run: Path) -> None:
    """Provenance and kept units come back from the file."""
    provenance, kept = pruning_record(run)
    assert (provenance.rule, provenance.criterion) == ("both", "variance*snp")
    assert [len(units.heads) for units in kept] == [3, 3]


def test_findings_say_what_the_measurements_hold(run: Path) -> None:
    """Every tap point with its figures, and every head with its images, as they follow from the saved label means."""
    found, nodes = run_findings(run), load_measurements(run / DENSE_MEASUREMENTS).nodes
    assert [tap["name"] for tap in found["tap_points"]] == list(nodes)
    for tap in found["tap_points"]:
        assert tap["figures"] == asdict(summarise(statistics(nodes[tap["name"]])))
        assert tap["sweep"][2]["clusters_per_node"] == tap["figures"]["clusters_per_node"]  # at 0.3
        assert sum(tap["nodes_by_clusters"]) == sum(tap["nodes_by_noise"]) == tap["nodes"]
        signal = tap["uncertainties"]["signal"]
        assert signal["low"] <= signal["high"]
    assert [len(encoder["sharpness_H"]) for encoder in found["heads"]] == [4, 4]
    for encoder in found["heads"]:
        correct = nodes[f"encoders.{encoder['encoder']}.heads"].correct
        assert sum(encoder["together_K"]) == correct
        assert sum(encoder["images_K"]) == found["images"]


def test_findings_on_another_part_with_more_probes(run: Path) -> None:
    """They leave the measurements as they are, and say how far probes of another seed name the same experts."""
    before, data, probes = file_sha256(run / DENSE_MEASUREMENTS), load(DatasetSettings("digits")), ProbeSettings(2)
    assert findings_stage(run, FindingsSettings("test", draws=2, probe_seeds=2), probes, data, progress)
    found = run_findings(run)
    assert (found["split"], found["images"]) == ("test", 360)
    model, test = load_model(run / DENSE), split_images(data, "test")
    again = measure(model, train_probes(model, split_images(data, "train"), replace(probes, seed=1)), test)
    for index, encoder in enumerate(found["heads"]):
        others_HK = recognising_nodes(recognised_labels(again[f"encoders.{index}.heads"]), 4)
        expected = agreement(torch.tensor(encoder["recognising_nodes_HK"]), others_HK)
        assert encoder["seeds"] == [asdict(expected)]
    assert file_sha256(run / DENSE_MEASUREMENTS) == before


def test_pruning_rests_on_training_images(run: Path) -> None:
    """At most so many of a label, so that validation and test images judge what they had no part in."""
    data, model = load(DatasetSettings("digits")), load_model(run / DENSE)
    found, saved = pruning_measurements(run, model, data), load_measurements(run / DENSE_MEASUREMENTS)
    images = split_images(data, "train").sample_of_each_label(PRUNING_IMAGES)
    assert len(images) == np.minimum(np.bincount(data.train.labels_N), PRUNING_IMAGES).sum()
    for name, node in measure(model, saved.probes, images).items():
        torch.testing.assert_close(found.nodes[name].label_means_KN, node.label_means_KN)
        assert found.nodes[name].images == len(images)


def test_stage_before_its_inputs_says_which_command_makes_them(tmp_path: Path) -> None:
    """An empty run names the stage to run first."""
    with pytest.raises(RunError, match=r"has no trained model: expected training.json. Run `exporter train` first"):
        training_record(tmp_path)
    with pytest.raises(RunError, match=r"has no pruned model: expected pruning.json. Run `exporter prune` first"):
        pruning_record(tmp_path)


def test_fingerprint_is_of_every_pixel_and_label() -> None:
    """One pixel more or less is another data set."""
    digits = load(DatasetSettings("digits"))
    before = dataset_fingerprint(digits)
    assert dataset_fingerprint(load(DatasetSettings("digits"))) == before
    digits.test.images_NYXC[0, 0, 0, 0] ^= 1
    assert dataset_fingerprint(digits) != before
