"""Prune a trained model: masks over its connections, then removal of units, each followed by fine-tuning.

dense -> masks -> fine-tuning of the masked layers and the classifier head (the masked model)
      -> units removed by a criterion -> fine-tuning of everything, masks in force (the pruned model)

`layers` says where masks go, `mask_by` what chooses the connections that they keep (`pruning.connections`). Where one
of them is `auto`, the model under each of `settings.CANDIDATES` that fits the other, and without masks, is fine-tuned
and evaluated, and the best of them goes on to removal; the masked model that is reported is that of ANDC in both groups
of layers, literal ANDC, whatever it costs. Best is the highest validation accuracy, the lower validation loss deciding
between equals [our choice].

Removal goes in rounds (`pruning.search`), or at once to a budget. A pruned model may lose `max_drop_points` of the
dense model's validation accuracy. The fastest that loses no more is the result; where none does, it is the dense model
[our choice].

Fine-tuning learns from the dense model's logits (`training.distillation`). Masks and scores rest on training images
alone (`nodes.measurements.pruning_measurements`); no test image is looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.progress import Advance, unseen
from headwise_exporter.pruning.masking import Masked, masked_models, nodes_without_cluster
from headwise_exporter.pruning.names import NONE
from headwise_exporter.pruning.removal import Candidate, Original, Removal, Trials, best, remove_at_once
from headwise_exporter.pruning.search import Cost, macs_cost, search
from headwise_exporter.pruning.settings import LITERAL, PruneSettings
from headwise_exporter.training.settings import TrainingSettings, fine_tuning_settings


@dataclass(frozen=True)
class Pruned:
    """The masked and the pruned model, and how they came about."""

    masked: Masked  # that is reported: the one that was asked for, or literal ANDC
    base: Masked  # that units were removed from
    tried: list[Masked]
    chosen: Candidate
    candidates: list[Candidate]  # in the order in which they were tried; at the end the dense model, where it is chosen
    dense_accuracy: float  # on the validation images; the original's, where the dense model was made from another
    nodes_without_cluster: int  # among those whose connections are under masks
    cost: str  # what was to become less
    speedup: float  # that cost of the dense model over the chosen one's


def most_candidates(settings: PruneSettings) -> int:
    """How many models without some units `prune` tries at most."""
    eased = settings.search.rounds if settings.removal == "search" else len(settings.budgets()) - 1
    return len(settings.criterion_candidates()) + eased


def fine_tunings(settings: PruneSettings) -> int:
    """How many models `prune` fine-tunes at most."""
    masked = sum(mask_by != NONE for _, mask_by in settings.mask_candidates())
    return masked + most_candidates(settings)


def pruning_images(settings: PruneSettings, train_data: LabelledImages, validation_data: LabelledImages) -> int:
    """Images that `prune` goes through at most, in its fine-tunings and evaluations."""
    evaluations = 1 + len(settings.mask_candidates()) + most_candidates(settings)
    return fine_tunings(settings) * settings.epochs * len(train_data) + evaluations * len(validation_data)


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
    cost_of: Callable[[CCTConfig], Cost] = macs_cost,
    earlier: Sequence[Candidate] = (),
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    original: Original | None = None,
) -> Pruned:
    """Mask a trained model and remove units from it.

    Args:
        model: the dense model; it is not changed.
        measurements: on other images than `validation_data`.
        training: that of the dense model, from which fine-tuning takes what it does not set itself.
        advance: counts `pruning_images` in all.
        cost_of: what a search makes less, for the dense model's shape.
        earlier: candidates of prunings by the same settings, but for how far they went; not made again.
        on_candidate: called with each candidate that is made now.
        original: that the dense model was made from; where nothing passes, the dense model may be worse than it.

    Raises:
        PruningError: a pruned model is not the masked one.
    """
    fine_tuning = fine_tuning_settings(training, settings.epochs, settings.learning_rate, settings.batch_size)
    counted = _Counted(advance)
    data = (train_data, validation_data, settings, fine_tuning, counted)
    tried = masked_models(model, measurements, *data)
    reported = next((masked for masked in tried if (masked.layers, masked.mask_by) == LITERAL), tried[0])
    base, trials = best(tried), Trials(earlier, on_candidate)
    removal = Removal(model, base, measurements, *data, trials, original)
    dense = removal.nothing()
    cost = cost_of(model.config) if settings.removal == "search" else macs_cost(model.config)
    chosen = search(removal, dense, cost) if settings.removal == "search" else remove_at_once(removal, dense)
    candidates = [*trials.done, dense] if chosen is dense else trials.done
    advance(pruning_images(settings, train_data, validation_data) - counted.done)  # what need not be tried any more
    without = nodes_without_cluster(model, measurements, settings.threshold) if reported.masks else 0
    speedup = 1.0 if chosen is dense else cost.speedup(chosen.model.config)
    compared = original or dense
    return Pruned(reported, base, tried, chosen, candidates, compared.validation_accuracy, without, cost.unit, speedup)
