"""Masks, removal and the choice of a criterion."""

from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.export.manifest import kept_share
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import Measurements
from headwise_exporter.nodes.snp import ProbeSettings, measure, statistics, train_probes
from headwise_exporter.pruning import prune as pruning
from headwise_exporter.pruning.compaction import Budget, largest_difference, pruned_masks
from headwise_exporter.pruning.criteria import CRITERIA
from headwise_exporter.pruning.prune import RULES, Pruned, PruningError, provenance, prune, remove_units
from headwise_exporter.recipes import PruneSettings
from headwise_exporter.training.loop import TrainingSettings

TRAINING = TrainingSettings(epochs=5, batch_size=32)
SETTINGS = PruneSettings(rule="both", criterion="magnitude", epochs=1, budget=Budget(0.5, 0.5, 1.0, 1.0))


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """60 random images of all labels."""
    return support.random_images(torch.arange(60) % 10)


@pytest.fixture(scope="module")
def dense() -> CCT:
    """The model to prune."""
    return support.random_model()


@pytest.fixture(scope="module")
def measurements(dense: CCT, data: LabelledImages) -> Measurements:
    """Of the model."""
    probes = train_probes(dense, data, ProbeSettings(epochs=1))
    return Measurements(probes, measure(dense, probes, data))


@pytest.fixture(scope="module")
def pruned(dense: CCT, measurements: Measurements, data: LabelledImages) -> Pruned:
    """By one criterion."""
    return prune(dense, measurements, data, data, SETTINGS, TRAINING)


def test_dense_model_is_not_changed(dense: CCT, pruned: Pruned) -> None:
    """Pruning works on copies."""
    assert largest_difference(dense, support.random_model()) == 0.0
    assert largest_difference(dense, pruned.masked.model) > 0.0


def test_masks_hold_in_both_models(pruned: Pruned) -> None:
    """After their fine-tuning the masked and the pruned model have no weight where the masks keep none."""
    for name, mask in pruned.masked.masks.items():
        assert not (pruned.masked.model.get_parameter(f"{name}.weight") * ~mask).any()
    for encoder, units in enumerate(pruned.chosen.kept):
        name = f"classifier.blocks.{encoder}.linear2"
        mask = pruned.masked.masks[name][:, list(units.feed_forward)]
        assert not (pruned.chosen.model.get_parameter(f"{name}.weight") * ~mask).any()


def test_pruned_model_has_the_budgets_shape(pruned: Pruned) -> None:
    """Two of four heads and half of the hidden nodes, to a multiple of eight."""
    for shape in pruned.chosen.model.config.encoders:
        assert (shape.heads, shape.query_key_dim, shape.value_dim, shape.feed_forward) == (2, 8, 8, 24)


def test_auto_takes_the_best_on_the_validation_images(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """Every criterion is tried, and none is better than the one chosen."""
    steps: list[str] = []
    settings = replace(SETTINGS, criterion="auto")
    found = prune(dense, measurements, data, data, settings, TRAINING, steps.append)
    assert [candidate.criterion for candidate in found.candidates] == list(CRITERIA)
    assert found.chosen.validation_accuracy == max(candidate.validation_accuracy for candidate in found.candidates)
    equals = [c for c in found.candidates if c.validation_accuracy == found.chosen.validation_accuracy]
    assert found.chosen.validation_loss == min(candidate.validation_loss for candidate in equals)
    assert len(steps) == 1 + len(CRITERIA)
    told = provenance(found, settings)
    assert told.criterion_chosen
    assert [candidate.criterion for candidate in told.candidates] == list(CRITERIA)


def test_auto_rule_goes_on_with_the_best_and_reports_literal_andc(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """Every rule and none is evaluated, weighed overlap at ANDC's share; the masked model is that of both rules."""
    steps: list[str] = []
    settings = replace(SETTINGS, rule="auto")
    found = prune(dense, measurements, data, data, settings, TRAINING, steps.append)
    assert [masked.rule for masked in found.rules] == list(RULES)
    assert found.base.validation_accuracy == max(masked.validation_accuracy for masked in found.rules)
    assert found.masked.rule == "both"
    told = provenance(found, settings)
    assert (told.rule, told.compact_rule, told.compact_rule_chosen) == ("both", found.base.rule, True)
    assert [result.rule for result in told.rules] == list(RULES)
    assert kept_share(told) == pytest.approx(told.rules[RULES.index("both")].kept_connections)
    assert told.rules[RULES.index("none")].kept_connections == 1.0
    assert told.rules[-1].kept_connections == pytest.approx(told.rules[RULES.index("both")].kept_connections)
    assert len(steps) == len(RULES) + 1
    for name, mask in pruned_masks(found.base.masks, found.chosen.kept).items():
        assert not (found.chosen.model.get_parameter(f"{name}.weight") * ~mask).any()


def test_provenance_counts_masks_and_empty_nodes(pruned: Pruned, measurements: Measurements) -> None:
    """Kept connections are those of the masks; nodes without a cluster are counted where a mask reads them."""
    told = provenance(pruned, SETTINGS)
    assert (told.rule, told.criterion, told.criterion_chosen) == ("both", "magnitude", False)
    assert {layer.layer: layer.kept for layer in told.layers} == {
        name: int(mask.sum()) for name, mask in pruned.masked.masks.items()
    }
    expected = sum(
        int((~statistics(node).has_cluster_N).sum())
        for name, node in measurements.nodes.items()
        if "feed_forward" in name or name == "classifier_head"
    )
    assert told.nodes_without_cluster == expected


def test_share_of_connections_is_kept_where_one_is_asked_for(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """`keep` goes before the threshold."""
    found = prune(dense, measurements, data, data, replace(SETTINGS, rule="layer", keep=0.1), TRAINING)
    assert kept_share(provenance(found, SETTINGS)) == pytest.approx(0.1, abs=0.03)


def test_without_masks_nothing_is_trained_before_removal(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """The rule `none` leaves the masked model as the dense one."""
    found = prune(dense, measurements, data, data, replace(SETTINGS, rule="none"), TRAINING)
    assert largest_difference(dense, found.masked.model) == 0.0
    assert provenance(found, replace(SETTINGS, rule="none")).nodes_without_cluster == 0


def test_pruned_model_that_differs_is_refused(dense: CCT, pruned: Pruned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The equality of masked and pruned model is checked on every removal, not trusted."""
    monkeypatch.setattr(pruning, "remove_masked", lambda masked, kept: support.random_model(seed=9))
    means = [pruning.UnitMeans(torch.zeros(32), torch.zeros(48))] * 2
    with pytest.raises(PruningError, match=r"expected the pruned model to equal the masked one to 1e-05"):
        remove_units(dense, pruned.chosen.kept, means)
