"""A trained model under masks over its connections, fine-tuned: every choice of masks that is tried.

Masks rest on training images alone (`nodes.measurements.pruning_measurements`).
"""

import copy
from dataclasses import dataclass

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.nodes.snp import recognised_labels
from headwise_exporter.progress import Advance, Count, uncounted
from headwise_exporter.pruning.andc import andc_masks, andc_masks_keeping
from headwise_exporter.pruning.connections import Evidence, choose_masks, input_scales
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.pruning.names import ANDC, NONE, Layers
from headwise_exporter.pruning.settings import PruneSettings
from headwise_exporter.training.distillation import DistillationSettings, teacher_of
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings

SCALE_IMAGES = 5000  # training images that the size of inputs is taken from


@dataclass(frozen=True)
class Masked:
    """A model under its masks, after fine-tuning, on the validation images."""

    layers: Layers
    mask_by: str
    masks: Masks
    model: CCT
    validation_accuracy: float
    validation_loss: float


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


def masked_models(
    model: CCT,
    measurements: Measurements,
    train_data: LabelledImages,
    validation_data: LabelledImages,
    settings: PruneSettings,
    fine_tuning: TrainingSettings,
    advance: Advance,
) -> list[Masked]:
    """The model under every choice of masks that the settings ask for, and without masks where they do."""
    tried = []
    for layers, mask_by in settings.mask_candidates():
        advance(0, "without masks" if mask_by == NONE else f"masks by {mask_by} ({layers})")
        masks = make_masks(model, measurements, train_data, layers, mask_by, settings)
        masked = train_masked(model, masks, train_data, fine_tuning, settings.distillation, advance)
        evaluation = evaluate(masked, validation_data, advance)
        tried.append(Masked(layers, mask_by, masks, masked, evaluation.accuracy, evaluation.loss))
    return tried


def nodes_without_cluster(model: CCT, measurements: Measurements, threshold: float) -> int:
    """Nodes at either end of a maskable layer that recognise no label."""
    layers = model.maskable_layers()
    taps = {tap for layer in layers for tap in (layer.inputs, layer.outputs) if tap is not None}
    recognised = (recognised_labels(measurements.nodes[tap], threshold) for tap in taps)
    return sum(int((~labels_NK.any(1)).sum()) for labels_NK in recognised)
