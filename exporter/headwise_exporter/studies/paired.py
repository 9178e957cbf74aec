"""Two models on the same images, or on the same subsets: how much better one is, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headwise_exporter.studies.comparison import mcnemar


@dataclass(frozen=True)
class Paired:
    """Accuracy of two models on the same images."""

    images: int
    accuracy: float
    baseline_accuracy: float
    low: float  # of the difference, 95 %, percentile bootstrap over the images
    high: float
    p_value: float  # that both are equally often right, McNemar's exact test

    @property
    def difference(self) -> float:
        """By how much the first model is better."""
        return self.accuracy - self.baseline_accuracy


def _interval(values_N: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of the mean, by percentile bootstrap; the mean itself where all values are the same."""
    from scipy.stats import bootstrap  # slow to import, which `exporter --help` need not wait for

    if len(np.unique(values_N)) == 1:
        return float(values_N[0]), float(values_N[0])
    interval = bootstrap((values_N,), np.mean, rng=0, method="percentile").confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class MeanDifference:
    """Of the accuracies of two models, over subsets of the labels."""

    mean: float
    low: float  # 95 %, percentile bootstrap over the subsets
    high: float
    not_lower: int  # subsets on which the model is no worse


def mean_difference(accuracies: Sequence[float], baseline: Sequence[float]) -> MeanDifference:
    """A model against a baseline, subset by subset."""
    differences = np.subtract(accuracies, baseline)
    low, high = _interval(differences)
    return MeanDifference(float(differences.mean()), low, high, int((differences >= 0).sum()))


def paired(correct_N: Tensor, baseline_N: Tensor) -> Paired:
    """Compare a model with a baseline.

    Args:
        correct_N: Boolean, whether the model is right on each image.
        baseline_N: the same of the baseline.
    """
    differences = (correct_N.int() - baseline_N.int()).numpy()
    low, high = _interval(differences)
    wrong, baseline_wrong = ((~right_N).nonzero().flatten().tolist() for right_N in (correct_N, baseline_N))
    return Paired(
        images=len(differences),
        accuracy=float(correct_N.double().mean()),
        baseline_accuracy=float(baseline_N.double().mean()),
        low=low,
        high=high,
        p_value=mcnemar(wrong, baseline_wrong),
    )
