"""Two models on the same images: how much better one is, and how sure that is."""

from dataclasses import dataclass

import numpy as np
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


def paired(correct_N: Tensor, baseline_N: Tensor) -> Paired:
    """Compare a model with a baseline.

    Args:
        correct_N: Boolean, whether the model is right on each image.
        baseline_N: the same of the baseline.
    """
    from scipy.stats import bootstrap  # slow to import, which `exporter --help` need not wait for

    differences = (correct_N.int() - baseline_N.int()).numpy()
    low = high = float(differences.mean())
    if len(np.unique(differences)) > 1:
        interval = bootstrap((differences,), np.mean, rng=0, method="percentile").confidence_interval
        low, high = float(interval.low), float(interval.high)
    wrong, baseline_wrong = ((~right_N).nonzero().flatten().tolist() for right_N in (correct_N, baseline_N))
    return Paired(
        images=len(differences),
        accuracy=float(correct_N.double().mean()),
        baseline_accuracy=float(baseline_N.double().mean()),
        low=low,
        high=high,
        p_value=mcnemar(wrong, baseline_wrong),
    )
