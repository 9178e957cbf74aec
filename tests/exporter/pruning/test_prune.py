"""Masks, removal and the choice of a criterion."""

from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.export.manifest import kept_share
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import statistics
from headwise_exporter.progress import Count, uncounted
from headwise_exporter.pruning import masking, removal
from headwise_exporter.pruning.compaction import Budget, largest_difference, pruned_masks
from headwise_exporter.pruning.names import CRITERIA
from headwise_exporter.pruning.provenance import provenance
from headwise_exporter.pruning.prune import Pruned, fine_tunings, prune, pruning_images
from headwise_exporter.pruning.removal import PruningError, remove_units, unit_statistics
from headwise_exporter.pruning.settings import CANDIDATES, LITERAL, PruneSettings
from headwise_exporter.training.evaluation import Evaluation
from headwise_exporter.training.settings import TrainingSettings

TRAINING = TrainingSettings(epochs=5, batch_size=32)
SETTINGS = PruneSettings(
    layers="both",
    mask_by="andc",
    criterion="magnitude",
    epochs=1,
    removal="budget",
    budget=Budget(0.5, 0.5, 1.0, 1.0),
    max_drop_points=100,  # whatever comes of so little training
)


@pytest.fixture(scope="module")
def pruned(dense: CCT, measurements: Measurements, data: LabelledImages) -> Pruned:
    """The dense model pruned by one criterion."""
    return prune(dense, measurements, data, data, SETTINGS, TRAINING)


def test_dense_model_is_not_changed(dense: CCT, pruned: Pruned) -> None:
    """Pruning works on copies."""
    assert largest_difference(dense, support.random_model()) == 0.0
    assert largest_difference(dense, pruned.masked.model) > 0.0


def test_masks_hold_in_both_models(pruned: Pruned) -> None:
    """After their fine-tuning the masked and the pruned model have no weight where the masks keep none."""
    for name, mask in pruned.masked.masks.by_layer.items():
        assert not (pruned.masked.model.get_parameter(f"{name}.weight") * ~mask).any()
    for encoder, units in enumerate(pruned.chosen.kept.encoders):
        name = f"classifier.blocks.{encoder}.linear2"
        mask = pruned.masked.masks.by_layer[name][:, list(units.feed_forward)]
        assert not (pruned.chosen.model.get_parameter(f"{name}.weight") * ~mask).any()


def test_pruned_model_has_the_budgets_shape(pruned: Pruned) -> None:
    """Two of four heads and half of the hidden nodes, to a multiple of eight."""
    for shape in pruned.chosen.model.config.encoders:
        assert (shape.heads, shape.query_key_dim, shape.value_dim, shape.feed_forward) == (2, 8, 8, 24)


def test_auto_takes_the_best_criterion_on_the_validation_split(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """Every criterion is tried, and none is better than the one chosen."""
    bar = support.Bar("prune", None, "images")
    settings = replace(SETTINGS, criterion="auto")
    pruned = prune(dense, measurements, data, data, settings, TRAINING, bar.advance)
    assert [candidate.criterion for candidate in pruned.candidates] == list(CRITERIA)
    assert pruned.chosen.validation_accuracy == max(candidate.validation_accuracy for candidate in pruned.candidates)
    equals = [c for c in pruned.candidates if c.validation_accuracy == pruned.chosen.validation_accuracy]
    assert pruned.chosen.validation_loss == min(candidate.validation_loss for candidate in equals)
    assert bar.done == pruning_images(settings, data, data)
    assert [note for note in bar.notes if "removed" in note] == [f"units removed by {name}" for name in CRITERIA]
    stated = provenance(pruned, settings)
    assert stated.criterion_chosen
    assert not stated.mask_chosen
    assert [candidate.criterion for candidate in stated.candidates] == list(CRITERIA)


@pytest.mark.parametrize(
    ("max_drop_points", "kept_hidden", "tried"),
    [
        (60, 24, 1),  # half of the 48 hidden nodes is removed, in multiples of 8
        (20, 40, 3),
        (5, 48, 4),  # each loses more: the dense model
    ],
)
def test_removal_is_eased_until_a_model_loses_no_more_than_it_may(
    dense: CCT,
    measurements: Measurements,
    data: LabelledImages,
    monkeypatch: pytest.MonkeyPatch,
    max_drop_points: float,
    kept_hidden: int,
    tried: int,
) -> None:
    """Where accuracy falls with every hidden node, the smallest model that passes is chosen, and the bar ends full."""

    def hidden(model: CCT) -> int:
        return sum(shape.feed_forward for shape in model.config.encoders)

    def as_many_hidden_nodes(model: CCT, images: LabelledImages, on_images: Count = uncounted) -> Evaluation:
        on_images(len(images))
        correct_N = torch.arange(len(images)) < len(images) * hidden(model) / hidden(dense)
        return Evaluation(correct_N, 1.0)

    for module in (masking, removal):
        monkeypatch.setattr(module, "evaluate", as_many_hidden_nodes)
    bar = support.Bar("prune", None, "images")
    budget = Budget(0.5, 1.0, 1.0, 1.0)
    settings = replace(SETTINGS, mask_by="none", budget=budget, max_drop_points=max_drop_points)
    pruned = prune(dense, measurements, data, data, settings, TRAINING, bar.advance)
    assert [shape.feed_forward for shape in pruned.chosen.model.config.encoders] == [kept_hidden] * 2
    assert len(pruned.candidates) == tried
    assert bar.done == pruning_images(settings, data, data)
    stated = provenance(pruned, settings)
    assert [candidate.passes for candidate in stated.candidates] == [False] * (tried - 1) + [True]
    assert stated.candidates[-1].parameters == count_parameters(pruned.chosen.model)
    assert stated.dense_validation_accuracy == 1.0
    if kept_hidden == 48:
        assert stated.criterion == "none"
        assert largest_difference(dense, pruned.chosen.model) == 0.0


def test_auto_removes_units_under_the_best_masks_and_reports_literal_andc(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """Every candidate is evaluated, weighted overlap at ANDC's share; the masked model is the one of literal ANDC."""
    bar = support.Bar("prune", None, "images")
    settings = replace(SETTINGS, layers="auto", mask_by="auto")
    pruned = prune(dense, measurements, data, data, settings, TRAINING, bar.advance)
    assert [(masked.layers, masked.mask_by) for masked in pruned.tried] == list(CANDIDATES)
    assert pruned.base.validation_accuracy == max(masked.validation_accuracy for masked in pruned.tried)
    assert (pruned.masked.layers, pruned.masked.mask_by) == LITERAL
    stated = provenance(pruned, settings)
    assert (stated.layers, stated.mask_by) == LITERAL
    assert (stated.pruned_layers, stated.pruned_mask_by) == (pruned.base.layers, pruned.base.mask_by)
    assert stated.mask_chosen
    kept = {(masks.layers, masks.mask_by): masks.kept_connections for masks in stated.masks}
    assert list(kept) == list(CANDIDATES)
    assert kept_share(stated) == pytest.approx(kept[LITERAL])
    assert kept["both", "none"] == 1.0
    assert kept["both", "wanda*overlap"] == pytest.approx(kept[LITERAL])
    assert bar.done == pruning_images(settings, data, data)
    assert fine_tunings(settings) == len(CANDIDATES)  # one of them has no masks to train under, and one criterion
    for name, mask in pruned_masks(pruned.base.masks, dense, pruned.chosen.kept).by_layer.items():
        assert not (pruned.chosen.model.get_parameter(f"{name}.weight") * ~mask).any()


@pytest.mark.parametrize(
    ("layers", "mask_by", "expected"),
    [
        ("both", "andc", [("both", "andc")]),
        ("feed_forward", "magnitude", [("feed_forward", "magnitude")]),
        ("auto", "magnitude", [("both", "magnitude")]),
        ("auto", "andc", [("classifier_head", "andc"), ("feed_forward", "andc"), ("both", "andc")]),
        ("classifier_head", "auto", [("classifier_head", "andc"), ("both", "none")]),
        ("auto", "none", [("both", "none")]),
        ("auto", "auto", list(CANDIDATES)),
    ],
)
def test_candidates_for_masks_fit_the_settings(layers: str, mask_by: str, expected: list[tuple[str, str]]) -> None:
    """One candidate where layers and masks are both set; with `auto`, every candidate that fits the other setting."""
    settings = PruneSettings(layers=layers, mask_by=mask_by)  # type: ignore[arg-type]  # of a table
    assert settings.mask_candidates() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "all"}, "expected layers to be one of auto, feed_forward, classifier_head, both, found 'all'"),
        ({"mask_by": "luck"}, "expected mask_by to be one of auto, none, andc, .*found 'luck'"),
        ({"criterion": "luck"}, "expected criterion to be one of auto, magnitude, .*found 'luck'"),
    ],
)
def test_unknown_setting_lists_the_known_ones(changes: dict[str, str], message: str) -> None:
    """The setting is refused before anything is pruned."""
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]  # of a table


def test_provenance_counts_masks_and_empty_nodes(pruned: Pruned, measurements: Measurements) -> None:
    """Kept connections are those of the masks; nodes without a cluster are counted where a mask reads them."""
    stated = provenance(pruned, SETTINGS)
    assert (stated.layers, stated.mask_by) == ("both", "andc")
    assert (stated.criterion, stated.criterion_chosen) == ("magnitude", False)
    assert {layer.layer: layer.kept for layer in stated.layer_masks} == {
        name: int(mask.sum()) for name, mask in pruned.masked.masks.by_layer.items()
    }
    expected = sum(
        int((~statistics(node).has_cluster_N).sum())
        for name, node in measurements.nodes.items()
        if "feed_forward" in name or name == "classifier_head"
    )
    assert stated.nodes_without_cluster == expected


def test_keep_sets_the_share_of_connections(dense: CCT, measurements: Measurements, data: LabelledImages) -> None:
    """`keep` overrides the threshold."""
    settings = replace(SETTINGS, layers="feed_forward", keep=0.1)
    pruned = prune(dense, measurements, data, data, settings, TRAINING)
    assert kept_share(provenance(pruned, settings)) == pytest.approx(0.1, abs=0.03)


def test_without_masks_nothing_is_trained_before_removal(
    dense: CCT, measurements: Measurements, data: LabelledImages
) -> None:
    """`none` leaves the masked model as the dense one."""
    settings = replace(SETTINGS, mask_by="none")
    pruned = prune(dense, measurements, data, data, settings, TRAINING)
    assert largest_difference(dense, pruned.masked.model) == 0.0
    assert provenance(pruned, settings).nodes_without_cluster == 0


def test_pruned_model_that_differs_is_refused(
    dense: CCT, pruned: Pruned, data: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The equality of masked and pruned model is checked on every removal, not trusted."""
    monkeypatch.setattr(removal, "remove_masked", lambda masked, kept: support.random_model(seed=9))
    with pytest.raises(PruningError, match=r"expected the pruned model to equal the masked one to 1e-05"):
        remove_units(dense, pruned.chosen.kept, unit_statistics(dense, data))
