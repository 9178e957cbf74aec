"""Prune a trained model: ANDC masks, then removal of units, each followed by fine-tuning.

dense -> masks by the rule -> fine-tuning of the masked layers and the classifier head (the masked model)
      -> units removed by a criterion -> fine-tuning of everything, masks in force (the pruned model)

The rules are ANDC's, and `wanda*overlap`: in each layer as many connections as ANDC keeps by both its rules, but
those of the largest weights and inputs between nodes that recognise the same labels (`pruning.connections`). With
rule `auto` the model under the masks of each rule, and without any, is evaluated, and the best of them goes on to
removal; the masked model that is reported is that of both of ANDC's rules, literal ANDC, whatever it costs. With
criterion `auto` every criterion of `pruning.criteria` makes its own pruned model, and the best wins. Best is the
highest validation accuracy, the lower validation loss deciding between equals [our choice]. Masks and scores rest on
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
from headwise_exporter.nodes.snp import CLASSIFIER_HEAD, recognised_labels
from headwise_exporter.pruning import andc, connections, criteria
from headwise_exporter.pruning.compaction import (
    KeptUnits,
    UnitMeans,
    largest_difference,
    mask_units,
    pruned_masks,
    remove_masked,
)
from headwise_exporter.recipes import PruneSettings
from headwise_exporter.training.loop import TrainingSettings, fine_tuning_settings, predict, train

AUTO: Final = "auto"
WEIGHED: Final = "wanda*overlap"  # where nothing can be trained the best of all rules on CIFAR-100: docs/results.md
SCALE_IMAGES = 5000  # training images that the size of inputs is taken from
RULES = (*andc.RULES, WEIGHED)
LITERAL: andc.Rule = "both"  # of the masked model that is reported where the rule is chosen
REMOVAL_TOLERANCE = 1e-5  # between the logits of a pruned model and of its masked original


class PruningError(Exception):
    """Pruning cannot go on, or did not do what it must."""


@dataclass(frozen=True)
class Candidate:
    """One criterion's pruned model on the validation images."""

    criterion: str
    validation_accuracy: float
    validation_loss: float
    kept: list[KeptUnits]
    model: CCT


@dataclass(frozen=True)
class Masked:
    """One rule's model under its masks, after the fine-tuning, on the validation images."""

    rule: str  # one of `RULES`
    masks: dict[str, Tensor]
    model: CCT
    validation_accuracy: float
    validation_loss: float


Evaluated = TypeVar("Evaluated", Masked, Candidate)


@dataclass(frozen=True)
class Pruned:
    """The masked and the pruned model, and how they came about."""

    masked: Masked  # by the rule asked for, or by both
    base: Masked  # that units were removed from
    rules: list[Masked]
    chosen: Candidate
    candidates: list[Candidate]
    nodes_without_cluster: int  # among those whose connections are under masks


def train_masked(model: CCT, masks: dict[str, Tensor], data: LabelledImages, training: TrainingSettings) -> CCT:
    """A copy of the model under the masks, after the fine-tuning."""
    masked = copy.deepcopy(model)
    andc.apply_masks(masked, masks)
    if masks:
        learning = andc.learning_parameters(masked, masks)
        train(masked, data, training, parameters=learning, after_step=andc.reapply(masked, masks))
    return masked


def _best(candidates: Sequence[Evaluated]) -> Evaluated:
    return max(candidates, key=lambda candidate: (candidate.validation_accuracy, -candidate.validation_loss))


def remove_units(model: CCT, kept: Sequence[KeptUnits], means: Sequence[UnitMeans]) -> CCT:
    """The pruned model, checked against the masked one on random images.

    Raises:
        PruningError: the two differ by more than rounding.
    """
    masked = mask_units(model, kept, means)
    small = remove_masked(masked, kept)
    difference = largest_difference(masked, small)
    if not difference <= REMOVAL_TOLERANCE:
        raise PruningError(
            f"expected the pruned model to equal the masked one to {REMOVAL_TOLERANCE}, found a difference of "
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
                validation_accuracy=candidate.validation_accuracy,
                validation_loss=candidate.validation_loss,
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
                validation_accuracy=masked.validation_accuracy,
                validation_loss=masked.validation_loss,
                kept_connections=andc.kept_share(masked.masks),
            )
            for masked in pruned.rules
        ],
    )


def _nodes_without_cluster(measurements: Measurements, threshold: float) -> int:
    masked = (node for name, node in measurements.nodes.items() if name == CLASSIFIER_HEAD or "feed_forward" in name)
    return sum(int((~recognised_labels(node, threshold).any(1)).sum()) for node in masked)


def _evaluate(model: CCT, data: LabelledImages) -> tuple[float, float]:
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
    validation_data: LabelledImages,
    settings: PruneSettings,
    training: TrainingSettings,
    on_step: Callable[[str], None] = lambda description: None,
) -> Pruned:
    """Mask and prune a trained model.

    Args:
        model: the dense model; it is not changed.
        measurements: on other images than `validation_data`.
        training: that of the dense model, from which fine-tuning takes what it does not set itself.
        on_step: told after each fine-tuning, or rule without masks.

    Raises:
        ValueError: unknown rule or criterion.
        PruningError: a pruned model is not the masked one.
    """
    short = fine_tuning_settings(training, settings.epochs, settings.learning_rate, settings.batch_size)
    rules = []
    for rule in RULES if settings.rule == AUTO else (settings.rule,):
        masks = _masks(model, measurements, train_data, rule, settings)
        masked = train_masked(model, masks, train_data, short)
        rules.append(Masked(rule, masks, masked, *_evaluate(masked, validation_data)))
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
        train(small, train_data, short, after_step=andc.reapply(small, pruned_masks(base.masks, kept)))
        candidates.append(Candidate(criterion, *_evaluate(small, validation_data), kept, small))
        on_step(f"criterion {criterion}")
    without = _nodes_without_cluster(measurements, settings.threshold) if reported.masks else 0
    return Pruned(reported, base, rules, _best(candidates), candidates, without)
