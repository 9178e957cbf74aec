"""Prune a trained model: masks over its connections, then removal of units, each followed by fine-tuning.

dense -> masks -> fine-tuning of the masked layers and the classifier head (the masked model)
      -> units removed by a criterion -> fine-tuning of everything, masks in force (the pruned model)

`layers` says where masks go, `mask_by` what chooses the connections that they keep (`pruning.connections`). Where one
of them is `auto`, the model under each of `CANDIDATES` that fits the other, and without masks, is fine-tuned and
evaluated, and the best of them goes on to removal; the masked model that is reported is that of ANDC in both groups of
layers, literal ANDC, whatever it costs. With criterion `auto` every criterion of `pruning.criteria` makes its own
pruned model, and the best wins. Best is the highest validation accuracy, the lower validation loss deciding between
equals [our choice].

A pruned model may lose `max_drop_points` of the dense model's validation accuracy. Where the best loses more, half as
much is removed by the same criterion, then half of that; the first that passes is the result. Where none does, nothing
is removed, and the result is the dense model [our choice].

Fine-tuning learns from the dense model's logits (`training.distillation`). Masks and scores rest on training images
alone (`nodes.measurements.pruning_measurements`); no test image is looked at.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.errors import ExporterError
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import THRESHOLD, recognised_labels
from headwise_exporter.progress import Advance, Count, uncounted, unseen
from headwise_exporter.pruning import criteria
from headwise_exporter.pruning.andc import andc_masks, andc_masks_keeping
from headwise_exporter.pruning.compaction import (
    Budget,
    KeptUnits,
    choose,
    largest_difference,
    mask_units,
    pruned_masks,
    remove_masked,
)
from headwise_exporter.pruning.connections import Evidence, choose_masks, input_scales
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.names import ANDC, AUTO, CRITERIA, LAYERS, MASK_BY, NONE, Layers
from headwise_exporter.training.distillation import DistillationSettings, teacher_of
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import TrainingSettings, fine_tuning_settings, train

LITERAL: tuple[Layers, str] = ("both", ANDC)  # of the masked model that is reported where there is a choice
# Layers and what chooses their connections. Where nothing is trained `wanda*overlap` is the best: docs/results.md.
CANDIDATES: tuple[tuple[Layers, str], ...] = (
    ("classifier_head", ANDC),
    ("feed_forward", ANDC),
    LITERAL,
    ("both", NONE),
    ("both", "wanda*overlap"),
)
EASINGS = 2  # times that half as much is removed
SCALE_IMAGES = 5000  # training images that the size of inputs is taken from
REMOVAL_TOLERANCE = 1e-5  # between the logits of a pruned model and of its masked original


class PruningError(ExporterError):
    """Pruning cannot go on, or did not do what it must."""


@dataclass(frozen=True)
class PruneSettings:
    """How a trained model is masked and made smaller.

    Raises:
        ValueError: unknown layers, choice of connections or criterion, or a share outside 0 .. 1.
    """

    # Where masks go, and what chooses the connections that they keep: one of `names.MASK_BY`, or none.
    layers: Literal["auto", "feed_forward", "classifier_head", "both"] = AUTO  # auto: the best on validation
    mask_by: str = AUTO  # auto: the best on validation
    threshold: float = THRESHOLD  # at which a field counts as recognition
    keep: float | None = None  # share of each masked layer's connections, by a threshold of its own
    criterion: str = AUTO  # one of `names.CRITERIA`, or auto: the best on validation
    budget: Budget = field(default_factory=Budget)
    max_drop_points: float = 0.5  # of validation accuracy, below the dense model; 100 takes what comes
    epochs: int = 12  # of each fine-tuning
    images: int | None = None  # of the training split, drawn at random; all by default
    batch_size: int | None = None  # of each fine-tuning; the dense model's by default
    learning_rate: float = 1e-3  # peak of each fine-tuning
    distillation: DistillationSettings = field(default_factory=DistillationSettings)  # the dense model is the teacher

    def __post_init__(self) -> None:
        for name, known in (
            ("layers", (AUTO, *LAYERS)),
            ("mask_by", (AUTO, NONE, *MASK_BY)),
            ("criterion", (AUTO, *CRITERIA)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, found {getattr(self, name)!r}")
        for name in ("threshold", "keep"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected {name} in 0 .. 1, found {value}")
        if not 0 <= self.max_drop_points <= 100:
            raise ValueError(f"expected max_drop_points in 0 .. 100, found {self.max_drop_points}")

    def mask_candidates(self) -> list[tuple[Layers, str]]:
        """Layers and choice of connections of every masked model that is tried."""
        fitting = [
            (layers, mask_by)
            for layers, mask_by in CANDIDATES
            if (self.layers in (AUTO, layers) or mask_by == NONE) and self.mask_by in (AUTO, mask_by)
        ]
        return fitting or [("both" if self.layers == AUTO else self.layers, self.mask_by)]

    def budgets(self) -> list[Budget]:
        """Budgets that are tried, one after another, until a model passes."""
        budgets = [self.budget]
        while self.max_drop_points < 100 and len(budgets) <= EASINGS:
            budgets.append(budgets[-1].eased())
        return budgets

    def passes(self, accuracy: float, dense_accuracy: float) -> bool:
        """Whether a model of that accuracy loses no more than it may."""
        return accuracy >= dense_accuracy - self.max_drop_points / 100

    def criterion_candidates(self) -> tuple[str, ...]:
        """Criteria that are tried."""
        return CRITERIA if self.criterion == AUTO else (self.criterion,)


@dataclass(frozen=True)
class Masked:
    """A model under its masks, after fine-tuning, on the validation images."""

    layers: Layers
    mask_by: str
    masks: Masks
    model: CCT
    validation_accuracy: float
    validation_loss: float


@dataclass(frozen=True)
class Candidate:
    """A pruned model on the validation images; by criterion `none` it is the dense one."""

    criterion: str
    kept: list[KeptUnits]
    model: CCT
    validation_accuracy: float
    validation_loss: float


Evaluated = TypeVar("Evaluated", Masked, Candidate)


@dataclass(frozen=True)
class Pruned:
    """The masked and the pruned model, and how they came about."""

    masked: Masked  # that is reported: the one that was asked for, or literal ANDC
    base: Masked  # that units were removed from
    tried: list[Masked]
    chosen: Candidate
    candidates: list[Candidate]
    dense_accuracy: float  # on the validation images
    nodes_without_cluster: int  # among those whose connections are under masks


def train_masked(
    model: CCT,
    masks: Masks,
    data: LabelledImages,
    training: TrainingSettings,
    distillation: DistillationSettings,
    on_images: Count = uncounted,
) -> CCT:
    """A copy of the model under the masks, after fine-tuning; as it is without masks."""
    masked = copy.deepcopy(model)
    masks.apply(masked)
    if masks:
        learning = masks.learning_parameters(masked)
        train(
            masked,
            data,
            training,
            parameters=learning,
            teacher=teacher_of(model, distillation),
            after_step=masks.reapply(masked),
            on_step=lambda step: on_images(step.images),
        )
    return masked


def _best(candidates: Sequence[Evaluated]) -> Evaluated:
    return max(candidates, key=lambda candidate: (candidate.validation_accuracy, -candidate.validation_loss))


def remove_units(model: CCT, kept: Sequence[KeptUnits], moments: criteria.GroupMoments) -> CCT:
    """The pruned model, checked against the masked one on random images.

    Raises:
        PruningError: the two differ by more than rounding.
    """
    masked = mask_units(model, kept, criteria.mean_activations(moments))
    small = remove_masked(masked, kept)
    difference = largest_difference(masked, small)
    if not difference <= REMOVAL_TOLERANCE:
        raise PruningError(
            f"expected the pruned model to equal the masked one to {REMOVAL_TOLERANCE}, found a difference of "
            f"{difference:.3g}. This is a defect of headwise: please report it with the checkpoint."
        )
    return small


def _nodes_without_cluster(model: CCT, measurements: Measurements, threshold: float) -> int:
    """Nodes at either end of a maskable layer that recognise no label."""
    layers = model.maskable_layers()
    taps = {tap for layer in layers for tap in (layer.inputs, layer.outputs) if tap is not None}
    recognised = (recognised_labels(measurements.nodes[tap], threshold) for tap in taps)
    return sum(int((~labels_NK.any(1)).sum()) for labels_NK in recognised)


def make_masks(
    model: CCT, measurements: Measurements, data: LabelledImages, layers: Layers, mask_by: str, settings: PruneSettings
) -> Masks:
    """The masks of a choice; none for `none`.

    Args:
        data: training images, from which the size of inputs is taken.
    """
    if mask_by == NONE:
        return Masks()
    if settings.keep is None:
        masks = andc_masks(model, measurements.nodes, layers, settings.threshold)
    else:
        masks = andc_masks_keeping(model, measurements.nodes, layers, settings.keep)
    if mask_by == ANDC:
        return masks
    evidence = Evidence(model, measurements.nodes, input_scales(model, data.sample(SCALE_IMAGES)))
    return choose_masks(mask_by, masks, evidence)


def _masked_models(
    model: CCT,
    measurements: Measurements,
    train_data: LabelledImages,
    validation_data: LabelledImages,
    settings: PruneSettings,
    fine_tuning: TrainingSettings,
    advance: Advance,
) -> list[Masked]:
    tried = []
    for layers, mask_by in settings.mask_candidates():
        advance(0, "without masks" if mask_by == NONE else f"masks by {mask_by} ({layers})")
        masks = make_masks(model, measurements, train_data, layers, mask_by, settings)
        masked = train_masked(model, masks, train_data, fine_tuning, settings.distillation, advance)
        evaluation = evaluate(masked, validation_data, advance)
        tried.append(Masked(layers, mask_by, masks, masked, evaluation.accuracy, evaluation.loss))
    return tried


@dataclass(frozen=True)
class _Removal:
    """What removal starts from, and what follows it."""

    dense: CCT
    base: Masked
    moments: criteria.GroupMoments
    measurements: Measurements
    train_data: LabelledImages
    validation_data: LabelledImages
    settings: PruneSettings
    fine_tuning: TrainingSettings
    advance: Advance

    def candidate(self, criterion: str, budget: Budget) -> Candidate:
        """The model that keeps so much by that criterion, after fine-tuning."""
        base, advance = self.base, self.advance
        advance(0, f"units removed by {criterion}")
        nodes, threshold = self.measurements.nodes, self.settings.threshold
        kept = choose(base.model, criteria.scores(base.model, self.moments, nodes, threshold, criterion), budget)
        small = remove_units(base.model, kept, self.moments)
        train(
            small,
            self.train_data,
            self.fine_tuning,
            teacher=teacher_of(self.dense, self.settings.distillation),
            after_step=pruned_masks(base.masks, base.model, kept).reapply(small),
            on_step=lambda step: advance(step.images),
        )
        return self._evaluated(criterion, kept, small)

    def nothing(self) -> Candidate:
        """The dense model."""
        kept = [KeptUnits.all(shape) for shape in self.dense.config.encoders]
        return self._evaluated(NONE, kept, copy.deepcopy(self.dense))

    def _evaluated(self, criterion: str, kept: list[KeptUnits], model: CCT) -> Candidate:
        evaluation = evaluate(model, self.validation_data, self.advance)
        return Candidate(criterion, kept, model, evaluation.accuracy, evaluation.loss)


def _pruned_models(removal: _Removal, dense: Candidate) -> tuple[Candidate, list[Candidate]]:
    """The one that is chosen, and all that were tried, the chosen one last among those of its criterion."""
    settings = removal.settings
    first, *eased = settings.budgets()
    candidates = [removal.candidate(criterion, first) for criterion in settings.criterion_candidates()]
    best = _best(candidates)
    for budget in eased:
        if settings.passes(best.validation_accuracy, dense.validation_accuracy):
            break
        best = removal.candidate(best.criterion, budget)
        candidates.append(best)
    if settings.passes(best.validation_accuracy, dense.validation_accuracy):
        return best, candidates
    return dense, [*candidates, dense]


def fine_tunings(settings: PruneSettings) -> int:
    """How many models `prune` fine-tunes at most."""
    masked = sum(mask_by != NONE for _, mask_by in settings.mask_candidates())
    return masked + len(settings.criterion_candidates()) + len(settings.budgets()) - 1


def pruning_images(settings: PruneSettings, train_data: LabelledImages, validation_data: LabelledImages) -> int:
    """Images that `prune` goes through at most: those of every fine-tuning and evaluation, and of the moments."""
    tried = len(settings.criterion_candidates()) + len(settings.budgets()) - 1
    evaluations = 1 + len(settings.mask_candidates()) + tried
    trained = (fine_tunings(settings) * settings.epochs + 1) * len(train_data)
    return trained + evaluations * len(validation_data)


class _Counted:
    """Counts what is shown."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self.done = advance, 0

    def __call__(self, count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
        self.done += count
        self._advance(count, note, resumed=resumed)


def prune(
    model: CCT,
    measurements: Measurements,
    train_data: LabelledImages,
    validation_data: LabelledImages,
    settings: PruneSettings,
    training: TrainingSettings,
    advance: Advance = unseen,
) -> Pruned:
    """Mask a trained model and remove units from it.

    Args:
        model: the dense model; it is not changed.
        measurements: on other images than `validation_data`.
        training: that of the dense model, from which fine-tuning takes what it does not set itself.
        advance: counts `pruning_images` in all.

    Raises:
        PruningError: a pruned model is not the masked one.
    """
    fine_tuning = fine_tuning_settings(training, settings.epochs, settings.learning_rate, settings.batch_size)
    counted = _Counted(advance)
    data = (train_data, validation_data, settings, fine_tuning, counted)
    tried = _masked_models(model, measurements, *data)
    reported = next((masked for masked in tried if (masked.layers, masked.mask_by) == LITERAL), tried[0])
    base = _best(tried)
    counted(0, "moments of the activations")
    moments = criteria.collect_moments(base.model, train_data, on_images=counted)
    removal = _Removal(model, base, moments, measurements, *data)
    dense = removal.nothing()
    chosen, candidates = _pruned_models(removal, dense)
    advance(pruning_images(settings, train_data, validation_data) - counted.done)  # what need not be tried any more
    without = _nodes_without_cluster(model, measurements, settings.threshold) if reported.masks else 0
    return Pruned(reported, base, tried, chosen, candidates, dense.validation_accuracy, without)
