"""Remove units from a model, and win back what that costs.

Scores rest on training images alone; what a removal comes to is seen on validation images.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.errors import ExporterError
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.progress import Advance, Count, uncounted
from headwise_exporter.pruning import criteria
from headwise_exporter.pruning.compaction import (
    NO_UNITS,
    Budget,
    KeptUnits,
    choose,
    largest_difference,
    mask_units,
    pruned_masks,
    remove_masked,
)
from headwise_exporter.pruning.masking import Masked
from headwise_exporter.pruning.names import NONE
from headwise_exporter.pruning.refit import collect_patches
from headwise_exporter.pruning.settings import PruneSettings
from headwise_exporter.training.distillation import teacher_of
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings

REMOVAL_TOLERANCE = 1e-5  # between the logits of a pruned model and of its masked original
EMPTIED_IMAGES = 1000  # training images on which encoders without units are compared


class PruningError(ExporterError):
    """Pruning cannot go on, or did not do what it must."""


@dataclass(frozen=True)
class UnitStatistics:
    """What stands in for removed units: their means, and the patches that convolutions are refitted on."""

    moments: criteria.GroupMoments
    patches: Mapping[str, Tensor]


def unit_statistics(model: CCT, data: LabelledImages, on_images: Count = uncounted) -> UnitStatistics:
    """Over training images."""
    return UnitStatistics(criteria.collect_moments(model, data, on_images=on_images), collect_patches(model, data))


def masked_units(model: CCT, kept: KeptUnits, statistics: UnitStatistics) -> CCT:
    """A copy of the model in the same shapes, in which something stands in for the removed units."""
    return mask_units(model, kept, criteria.mean_activations(statistics.moments), statistics.patches)


def remove_units(model: CCT, kept: KeptUnits, statistics: UnitStatistics) -> CCT:
    """The pruned model, checked against the masked one on random images.

    Raises:
        PruningError: the two differ by more than rounding.
    """
    masked = masked_units(model, kept, statistics)
    small = remove_masked(masked, kept)
    difference = largest_difference(masked, small)
    if not difference <= REMOVAL_TOLERANCE:
        raise PruningError(
            f"expected the pruned model to equal the masked one to {REMOVAL_TOLERANCE}, found a difference of "
            f"{difference:.3g}. This is a defect of headwise: please report it with the checkpoint."
        )
    return small


def emptied_losses(model: CCT, statistics: UnitStatistics, data: LabelledImages) -> Tensor:
    """Loss (L,) on the images with all units of one encoder removed, for each encoder."""
    everything, seen = KeptUnits.all(model.config), data.sample(EMPTIED_IMAGES)
    losses = []
    for index in range(len(everything.encoders)):
        encoders = [NO_UNITS if other == index else units for other, units in enumerate(everything.encoders)]
        masked = masked_units(model, KeptUnits(everything.filters, tuple(encoders)), statistics)
        losses.append(evaluate(masked, seen).loss)
    return torch.tensor(losses)


@dataclass(frozen=True)
class Candidate:
    """A pruned model on the validation images; by criterion `none` it is the dense one."""

    criterion: str
    kept: KeptUnits  # of the dense model
    model: CCT
    validation_accuracy: float
    validation_loss: float
    steps: tuple[str, ...] = ()  # in which units were removed from the dense model, each with its fine-tuning


Evaluated = TypeVar("Evaluated", Masked, Candidate)


def best(candidates: Sequence[Evaluated]) -> Evaluated:
    """The highest validation accuracy, the lower validation loss deciding between equals [our choice]."""
    return max(candidates, key=lambda candidate: (candidate.validation_accuracy, -candidate.validation_loss))


@dataclass
class Trials:
    """Candidates in the order in which they are tried; those of an earlier pruning are not made again."""

    earlier: Sequence[Candidate] = ()
    on_candidate: Callable[[Candidate], None] = lambda candidate: None  # made now
    done: list[Candidate] = field(default_factory=list)

    def next(self, steps: tuple[str, ...], make: Callable[[], Candidate]) -> Candidate:
        """The candidate that is reached in these steps."""
        candidate = next((earlier for earlier in self.earlier if earlier.steps == steps), None)
        if candidate is None:
            candidate = replace(make(), steps=steps)
            self.on_candidate(candidate)
        self.done.append(candidate)
        return candidate


@dataclass(frozen=True)
class Original:
    """The model that a dense model was made from: what pruned ones learn from, and are compared with."""

    model: nn.Module  # whose forward returns logits first, of the dense model's labels
    validation_accuracy: float


ChooseUnits = Callable[[UnitStatistics], KeptUnits]  # of the model that the statistics are of


@dataclass(frozen=True)
class Removal:
    """What removal starts from, and what follows it."""

    dense: CCT
    base: Masked
    measurements: Measurements
    train_data: LabelledImages
    validation_data: LabelledImages
    settings: PruneSettings
    fine_tuning: TrainingSettings
    advance: Advance
    trials: Trials
    original: Original | None = None  # the dense model by default

    @property
    def teacher(self) -> nn.Module:
        """What pruned models learn from."""
        return self.original.model if self.original else self.dense

    def scores(self, start: Candidate, statistics: UnitStatistics, criterion: str) -> dict[str, Tensor]:
        """Of every unit of a model by a criterion; fields are those of the dense model's nodes."""
        kept = start.kept.by_group(self.base.model.config)
        nodes = {
            name: replace(node, label_means_KN=node.label_means_KN[:, indices], weight_KN=node.weight_KN[:, indices])
            for name, node in self.measurements.nodes.items()
            if (indices := kept.get(name)) is not None
        }
        return criteria.scores(start.model, statistics.moments, nodes, self.settings.threshold, criterion)

    def start(self) -> Candidate:
        """The model that units are removed from."""
        base = self.base
        everything = KeptUnits.all(base.model.config)
        return Candidate(NONE, everything, base.model, base.validation_accuracy, base.validation_loss)

    def nothing(self) -> Candidate:
        """The dense model."""
        return self._evaluated(NONE, KeptUnits.all(self.dense.config), copy.deepcopy(self.dense))

    def passes(self, candidate: Candidate, dense: Candidate) -> bool:
        """Whether a candidate loses no more than it may."""
        compared = self.original or dense
        return self.settings.passes(candidate.validation_accuracy, compared.validation_accuracy)

    def candidate(
        self, start: Candidate, step: str, choose_units: ChooseUnits, criterion: str, images: int | None = None
    ) -> Candidate:
        """The next candidate: a model without the other units, after fine-tuning.

        Args:
            step: says what goes, so that no other step from the same start has these words.
            images: training images that statistics are taken from, drawn at random; all by default.
        """

        def make() -> Candidate:
            statistics = unit_statistics(start.model, self.train_data.sample(images))
            kept = choose_units(statistics)
            small, of_base = remove_units(start.model, kept, statistics), kept.within(start.kept)
            train(
                small,
                self.train_data,
                self.fine_tuning,
                teacher=teacher_of(self.teacher, self.settings.distillation),
                after_step=pruned_masks(self.base.masks, self.base.model, of_base).reapply(small),
                on_step=lambda step: self.advance(step.images),
            )
            return self._evaluated(criterion, of_base, small)

        return self.trials.next((*start.steps, f"{step}, by {criterion}"), make)

    def _evaluated(self, criterion: str, kept: KeptUnits, model: CCT) -> Candidate:
        evaluation = evaluate(model, self.validation_data, self.advance)
        return Candidate(criterion, kept, model, evaluation.accuracy, evaluation.loss)


def remove_at_once(removal: Removal, dense: Candidate) -> Candidate:
    """Remove to the settings' budget by each criterion; where the best loses too much, ever less by the same criterion.

    Returns:
        The one that is chosen; the dense model where all lose too much.
    """
    start, (first, *eased) = removal.start(), removal.settings.budgets()

    def tried(criterion: str, budget: Budget) -> Candidate:
        def chosen(statistics: UnitStatistics) -> KeptUnits:
            emptied: tuple[int, ...] = ()
            if budget.encoders < 1:
                emptied = budget.emptied(emptied_losses(start.model, statistics, removal.train_data))
            target = budget.config(start.model.config, emptied)
            return choose(start.model, removal.scores(start, statistics, criterion), target)

        removal.advance(0, f"units removed by {criterion}")
        return removal.candidate(start, str(budget), chosen, criterion)

    chosen = best([tried(criterion, first) for criterion in removal.settings.criterion_candidates()])
    for budget in eased:
        if removal.passes(chosen, dense):
            break
        chosen = tried(chosen.criterion, budget)
    return chosen if removal.passes(chosen, dense) else dense
