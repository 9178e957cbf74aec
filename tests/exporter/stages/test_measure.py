"""What the nodes and heads of a run's model know, and what controls know."""

from dataclasses import asdict, replace
from pathlib import Path

import support
import torch
from headwise.bundle import file_sha256
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import split_images
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.findings import FindingsSettings
from headwise_exporter.nodes.heads import agreement, recognising_nodes
from headwise_exporter.nodes.measurements import load_measurements
from headwise_exporter.nodes.snp import ProbeSettings, measure, recognised_labels, statistics, train_probes
from headwise_exporter.nodes.summary import ANY_THRESHOLD, ratios, summarise
from headwise_exporter.stages.measure import controls_stage, findings_stage
from headwise_exporter.stages.run import DENSE, DENSE_MEASUREMENTS, run_controls, run_findings


def test_findings_follow_from_the_measurements(run: Path) -> None:
    """Every tap point with its figures, and every head with its images, as they follow from the saved label means."""
    findings, nodes = run_findings(run), load_measurements(run / DENSE_MEASUREMENTS).nodes
    assert [tap["name"] for tap in findings["tap_points"]] == list(nodes)
    for tap in findings["tap_points"]:
        figures = asdict(summarise(statistics(nodes[tap["name"]])))
        assert tap["figures"] == figures | {ANY_THRESHOLD: ratios(nodes[tap["name"]])[ANY_THRESHOLD]}
        assert tap["sweep"][2]["clusters_per_node"] == tap["figures"]["clusters_per_node"]  # at 0.3
        assert sum(tap["nodes_by_clusters"]) == sum(tap["nodes_by_noise"]) == tap["nodes"]
        signal = tap["uncertainties"]["signal"]
        assert signal["low"] <= signal["high"]
    assert [len(encoder["sharpness_H"]) for encoder in findings["heads"]] == [4, 4]
    for encoder in findings["heads"]:
        correct = nodes[f"encoders.{encoder['encoder']}.heads"].correct
        assert sum(encoder["together_K"]) == correct
        assert sum(encoder["images_K"]) == findings["images"]


def test_findings_on_another_split_with_more_probes(run: Path) -> None:
    """They leave the measurements as they are, and have the agreement of experts between probes of two seeds."""
    before, data, probes = file_sha256(run / DENSE_MEASUREMENTS), load(DatasetSettings("digits")), ProbeSettings(2)
    assert findings_stage(run, FindingsSettings("test", draws=2, probe_seeds=2), probes, data, progress)
    findings = run_findings(run)
    assert (findings["split"], findings["images"]) == ("test", 360)
    model, test = load_model(run / DENSE), split_images(data, "test")
    again = measure(model, train_probes(model, split_images(data, "train"), replace(probes, seed=1)), test)
    for index, encoder in enumerate(findings["heads"]):
        others_HK = recognising_nodes(recognised_labels(again[f"encoders.{index}.heads"]), 4)
        expected = agreement(torch.tensor(encoder["recognising_nodes_HK"]), others_HK)
        assert encoder["seeds"] == [asdict(expected)]
    assert file_sha256(run / DENSE_MEASUREMENTS) == before


def test_controls_are_measured_as_the_model_is(run: Path) -> None:
    """On the same images with as many draws, in the same keys; a second time there is nothing to do."""
    recipe, data = support.small_recipe(), load(DatasetSettings("digits"))
    assert run_controls(run) is None
    assert controls_stage(run, recipe.findings, recipe.probes, data, progress)
    assert not controls_stage(run, recipe.findings, recipe.probes, data, progress)
    findings, controls = run_findings(run), run_controls(run)
    assert controls is not None
    assert list(controls) == ["untrained", "untrained_again", "exchanged"]
    for control in controls.values():
        assert control.keys() == findings.keys()
        assert [tap["name"] for tap in control["tap_points"]] == [tap["name"] for tap in findings["tap_points"]]
    accuracies = [control["tap_points"][-1]["probe_accuracy"] for control in controls.values()]
    assert max(accuracies) < findings["tap_points"][-1]["probe_accuracy"]


def test_controls_of_other_images_are_none(run: Path) -> None:
    """As after a measurement on another split: figures of different images are not compared."""
    recipe, data = support.small_recipe(), load(DatasetSettings("digits"))
    controls_stage(run, FindingsSettings("test", draws=2), recipe.probes, data, progress)
    assert run_controls(run) is None
    findings_stage(run, FindingsSettings("test", draws=2), recipe.probes, data, progress)
    assert run_controls(run) is not None


def test_command_measures_controls_where_they_are_asked_for(run: Path) -> None:
    """Beside the model, with the settings that it is measured with."""
    done = support.exporter("measure", "--run", run, "--controls", "--set", "findings.draws=3")
    assert done.exit_code == 0, done.output
    controls = run_controls(run)
    assert controls is not None
    assert {control["draws"] for control in controls.values()} == {3}
