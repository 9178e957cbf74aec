"""The model that a run's dense model was made from, in runs for some labels of another run's (`stages.specialise`).

The run's training record says which labels, and of which run; `original.safetensors` is that run's dense model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwise.v1.bundle_pb2 import Interval, Specialisation
from torch import Tensor

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.progress import Count, uncounted
from headwise_exporter.pruning.removal import Original
from headwise_exporter.pruning.specialisation import LabelReading
from headwise_exporter.stages.run import ORIGINAL, PRUNED, training_record
from headwise_exporter.studies.paired import Paired, paired
from headwise_exporter.training.evaluation import evaluate, predict


@dataclass(frozen=True)
class SpecialisedFrom:
    """What a run for some labels was made from; JSON-able by `dataclasses.asdict`."""

    run: str  # its folder's name
    dense_sha256: str
    labels: Sequence[str]  # of its model
    other_shift: float | None  # `pruning.specialisation`

    def reading(self, model: CCT, chosen: Sequence[str]) -> LabelReading:
        """What that run's dense model says of the chosen labels."""
        return LabelReading(model, [list(self.labels).index(name) for name in chosen], self.other_shift)


def specialised_from(run: Path) -> SpecialisedFrom | None:
    """What a run for some labels was made from; None for any other run.

    Raises:
        RunError: the run has no trained model.
    """
    stated: dict[str, Any] | None = training_record(run).get("specialised_from")
    return SpecialisedFrom(**stated) if stated else None


def original_reading(run: Path) -> LabelReading | None:
    """What the original says of the run's labels; None where the dense model was not made from another.

    Raises:
        CheckpointError: it is gone.
    """
    origin = specialised_from(run)
    return origin.reading(load_model(run / ORIGINAL), training_record(run)["dataset"]["labels"]) if origin else None


def _correct(reading: LabelReading, data: LabelledImages, on_images: Count = uncounted) -> Tensor:
    """Boolean (N,), on the CPU: whether the original's first label is right."""
    logits_NK = predict(reading.model, data, on_images=on_images)
    return (reading.first_labels(logits_NK) == data.labels_N).cpu()


def original_of(run: Path, validation_data: LabelledImages) -> Original | None:
    """The original for `pruning.prune`; None where the dense model was not made from another."""
    if (reading := original_reading(run)) is None:
        return None
    return Original(reading, float(_correct(reading, validation_data).double().mean()))


def compare_with_original(run: Path, data: LabelledImages, on_images: Count = uncounted) -> Paired:
    """The run's pruned model against the original on the same images; counts the images twice.

    Raises:
        CheckpointError, ValueError: the run has no pruned model; it was not made from another.
    """
    if (reading := original_reading(run)) is None:
        raise ValueError(f"expected a run for some labels of another one, found {run}")
    small = evaluate(load_model(run / PRUNED), data, on_images)
    return paired(small.correct_N, _correct(reading, data, on_images))


def specialisation(run: Path, validation_data: LabelledImages) -> Specialisation | None:
    """What the run was made from, as the manifest states it; None for other runs."""
    if (origin := specialised_from(run)) is None:
        return None
    compared = compare_with_original(run, validation_data)
    return Specialisation(
        run=origin.run,
        dense_sha256=origin.dense_sha256,
        labels=origin.labels,
        other=origin.other_shift is not None,
        validation_images=compared.images,
        dense_validation_accuracy=compared.baseline_accuracy,
        validation_accuracy=compared.accuracy,
        difference_interval=Interval(low=compared.low, high=compared.high),
        p_value=compared.p_value,
    )
