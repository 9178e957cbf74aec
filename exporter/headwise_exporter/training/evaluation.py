"""What a model gives for images, and how often its first label is right.

Shape suffixes: N images, K labels.
"""

from dataclasses import dataclass

import torch
from headwise.v1.bundle_pb2 import Interval
from torch import Tensor, nn
from torch.nn import functional

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.progress import Count, uncounted


@torch.no_grad()
def predict(
    model: nn.Module, data: LabelledImages, batch_size: int | None = None, on_images: Count = uncounted
) -> Tensor:
    """Logits (N, K) in evaluation mode, on the device of the images.

    Args:
        model: whose forward returns logits first, as that of a CCT.
    """
    model.eval()
    logits = []
    with data.visited_by(model):
        for images_BCYX, _ in data.batches(batch_size):
            logits.append(model(images_BCYX)[0])
            on_images(len(images_BCYX))
    return torch.cat(logits)


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on labelled images."""

    correct_N: Tensor  # Boolean, on the CPU: whether the first label of each image is right
    loss: float  # mean cross-entropy

    @property
    def images(self) -> int:
        """Images that were evaluated."""
        return len(self.correct_N)

    @property
    def correct(self) -> int:
        """Images whose first label is right."""
        return int(self.correct_N.sum())

    @property
    def accuracy(self) -> float:
        """Share of the images whose first label is right."""
        return self.correct / self.images


def evaluate(model: nn.Module, data: LabelledImages, on_images: Count = uncounted) -> Evaluation:
    """Run the model on all images."""
    logits_NK, labels_N = predict(model, data, on_images=on_images), data.labels_N
    loss = float(functional.cross_entropy(logits_NK, labels_N))
    return Evaluation((logits_NK.argmax(1) == labels_N).cpu(), loss)


def wilson_interval(correct: int, images: int) -> Interval:
    """95 % interval of a share, by Wilson's score."""
    from scipy.stats import binomtest  # slow to import, which `exporter --help` need not wait for

    bounds = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return Interval(low=float(bounds.low), high=float(bounds.high))


@dataclass(frozen=True)
class Accuracy:
    """Of a model on one split of a data set."""

    model: str
    split: str
    images: int
    correct: int
    accuracy: float
    interval_low: float  # 95 %, by Wilson's score
    interval_high: float


def accuracy(name: str, model: nn.Module, split: str, data: LabelledImages, on_images: Count = uncounted) -> Accuracy:
    """Evaluate a model, with an interval."""
    evaluation = evaluate(model, data, on_images)
    interval = wilson_interval(evaluation.correct, evaluation.images)
    return Accuracy(
        name, split, evaluation.images, evaluation.correct, evaluation.accuracy, interval.low, interval.high
    )
