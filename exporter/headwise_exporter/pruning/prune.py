"""Prune a trained model: ANDC masks, then removal of units, each followed by a short training.

dense -> masks by the rule -> short training of the masked layers and the read-out (the masked model)
      -> units removed by a criterion -> short training of everything, masks in force (the compact model)

The rules are ANDC's, and `wanda*overlap`: in each layer as many connections as ANDC keeps by both its rules, but
those of the largest weights and inputs between nodes that recognise the same labels (`pruning.connections`). With
rule `auto` the model under the masks of each rule, and without any, is calibrated, and the best of them goes on to
removal; the masked model that is reported is that of both of ANDC's rules, literal ANDC, whatever it costs. With
criterion `auto` every criterion of `pruning.criteria` makes its own compact model, and the best wins. Best is the
highest calibration accuracy, the lower calibration loss deciding between equals [our choice]. Masks and scores rest on
training images alone (`stages.build.pruning_measurements`); test images play no part.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from headwise.v1.bundle_pb2 import CriterionResult, LayerMask, PruningProvenance, RuleResult
from torch import Tensor
from torch.nn import functional

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import Measurements
from headwise_exporter.nodes.snp import READOUT, recognised_labels
from headwise_exporter.pruning import andc, connections, criteria
from headwise_exporter.pruning.compaction import (
    KeptUnits,
    UnitMeans,
    compact,
    compact_masks,
    largest_difference,
    mask_units,
)
from headwise_exporter.recipes import PruneSettings
from headwise_exporter.training.loop import TrainingSettings, predict, shortened, train

AUTO: Final = "auto"
WEIGHED: Final = "wanda*overlap"  # where nothing can be trained the best of all rules on CIFAR-100: docs/results.md
SCALE_IMAGES = 5000  # training images that the size of inputs is taken from
RULES = (*andc.RULES, WEIGHED)
LITERAL: andc.Rule = "both"  # of the masked model that is reported where the rule is chosen
COMPACT_TOLERANCE = 1e-5  # between the logits of a compact model and of its masked original


class PruningError(Exception):
    """Pruning cannot go on, or did not do what it must."""


@dataclass(frozen=True)
class Candidate:
    """One criterion's compact model on the calibration images."""

    criterion: str
    calibration_accuracy: float
    calibration_loss: float
    kept: list[KeptUnits]
    model: CCT


@dataclass(frozen=True)
class Masked:
    """One rule's model under its masks, after the short training, on the calibration images."""

    rule: str  # one of `RULES`
    masks: dict[str, Tensor]
    model: CCT
    calibration_accuracy: float
    calibration_loss: float


Calibrated = TypeVar("Calibrated", Masked, Candidate)


@dataclass(frozen=True)
class Pruned:
    """The masked and the compact model, and how they came about."""

    masked: Masked  # by the rule asked for, or by both
    base: Masked  # that units were removed from
    rules: list[Masked]
    chosen: Candidate
    candidates: list[Candidate]
    nodes_without_cluster: int  # among those whose connections are under masks


def train_masked(model: CCT, masks: dict[str, Tensor], data: LabelledImages, training: TrainingSettings) -> CCT:
    """A copy of the model under the masks, after the short training."""
    masked = copy.deepcopy(model)
    andc.apply_masks(masked, masks)
    if masks:
        learning = andc.learning_parameters(masked, masks)
        train(masked, data, training, parameters=learning, after_step=andc.reapply(masked, masks))
    return masked


def _best(candidates: Sequence[Calibrated]) -> Calibrated:
    return max(candidates, key=lambda candidate: (candidate.calibration_accuracy, -candidate.calibration_loss))


def remove_units(model: CCT, kept: Sequence[KeptUnits], means: Sequence[UnitMeans]) -> CCT:
    """The compact model, checked against the masked one on random images.

    Raises:
        PruningError: the two differ by more than rounding.
    """
    masked = mask_units(model, kept, means)
    small = compact(masked, kept)
    difference = largest_difference(masked, small)
    if not difference <= COMPACT_TOLERANCE:
        raise PruningError(
            f"expected the compact model to equal the masked one to {COMPACT_TOLERANCE}, found a difference of "
            f"{difference:.3g}. This is a defect of headwise: please report it with the checkpoint."
        )
    return small


def provenance(pruned: Pruned, settings: PruneSettings) -> PruningProvenance:
    """How the pruned models came about, as the manifest tells it."""
    return PruningProvenance(
        rule=pruned.masked.rule,
        threshold=settings.threshold,
        criterion=pruned.chosen.criterion,
        criterion_chosen=settings.criterion == AUTO,
        candidates=[
            CriterionResult(
                criterion=candidate.criterion,
                calibration_accuracy=candidate.calibration_accuracy,
                calibration_loss=candidate.calibration_loss,
            )
            for candidate in pruned.candidates
        ],
        layers=[
            LayerMask(layer=name, connections=mask.numel(), kept=int(mask.sum()))
            for name, mask in pruned.masked.masks.items()
        ],
        nodes_without_cluster=pruned.nodes_without_cluster,
        compact_rule=pruned.base.rule,
        compact_rule_chosen=settings.rule == AUTO,
        rules=[
            RuleResult(
                rule=masked.rule,
                calibration_accuracy=masked.calibration_accuracy,
                calibration_loss=masked.calibration_loss,
                kept_connections=andc.kept_share(masked.masks),
            )
            for masked in pruned.rules
        ],
    )


def _nodes_without_cluster(measurements: Measurements, threshold: float) -> int:
    masked = (node for name, node in measurements.nodes.items() if name == READOUT or "feed_forward" in name)
    return sum(int((~recognised_labels(node, threshold).any(1)).sum()) for node in masked)


def _calibrate(model: CCT, data: LabelledImages) -> tuple[float, float]:
    logits_NK, labels_N = predict(model, data), data.labels_N
    accuracy = float((logits_NK.argmax(1) == labels_N).double().mean())
    return accuracy, float(functional.cross_entropy(logits_NK, labels_N))


def _masks(
    model: CCT, measurements: Measurements, data: LabelledImages, rule: str, settings: PruneSettings
) -> dict[str, Tensor]:
    nodes, layers = measurements.nodes, andc.rule_named(LITERAL if rule == WEIGHED else rule)
    if settings.keep is None:
        masks = andc.masks(model, nodes, layers, settings.threshold)
    else:
        masks = andc.masks_keeping(model, nodes, layers, settings.keep)
    if rule != WEIGHED:
        return masks
    scales = connections.input_scales(model, data.sample(SCALE_IMAGES))
    return connections.masks_by(rule, masks, connections.Evidence(model, nodes, scales))


def prune(
    model: CCT,
    measurements: Measurements,
    train_data: LabelledImages,
    calibration_data: LabelledImages,
    settings: PruneSettings,
    training: TrainingSettings,
    on_step: Callable[[str], None] = lambda description: None,
) -> Pruned:
    """Mask and compact a trained model.

    Args:
        model: the dense model; it is not changed.
        measurements: on other images than `calibration_data`.
        training: the recipe of the dense model, shortened here.
        on_step: told after each short training, or rule without masks.

    Raises:
        ValueError: unknown rule or criterion.
        PruningError: a compact model is not the masked one.
    """
    short = shortened(training, settings.epochs, settings.learning_rate, settings.batch_size)
    rules = []
    for rule in RULES if settings.rule == AUTO else (settings.rule,):
        masks = _masks(model, measurements, train_data, rule, settings)
        masked = train_masked(model, masks, train_data, short)
        rules.append(Masked(rule, masks, masked, *_calibrate(masked, calibration_data)))
        on_step(f"rule {rule}")
    reported = next(masked for masked in rules if settings.rule != AUTO or masked.rule == LITERAL)
    base = _best(rules)
    moments = criteria.collect_moments(base.model, train_data)
    means = [moment.means() for moment in moments]
    candidates = []
    for criterion in criteria.CRITERIA if settings.criterion == AUTO else (settings.criterion,):
        scores = criteria.scores(base.model, moments, measurements.nodes, settings.threshold, criterion)
        kept = criteria.choose(base.model, scores, moments, settings.budget)
        small = remove_units(base.model, kept, means)
        train(small, train_data, short, after_step=andc.reapply(small, compact_masks(base.masks, kept)))
        candidates.append(Candidate(criterion, *_calibrate(small, calibration_data), kept, small))
        on_step(f"criterion {criterion}")
    without = _nodes_without_cluster(measurements, settings.threshold) if reported.masks else 0
    return Pruned(reported, base, rules, _best(candidates), candidates, without)
