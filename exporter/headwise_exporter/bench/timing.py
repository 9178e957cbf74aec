"""Interleaved timing, and medians that say how sure they are.

Runs take turns (a, b, c, a, b, c, ...), so that a slow moment of the machine meets all of them; ratios are of times in
the same round. The interval of a median is that of order statistics, which assumes nothing about how times are spread.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Timed = Callable[[NDArray[Any]], Any]
WARM_UP_ROUNDS = 5
FEWEST_ROUNDS, MOST_ROUNDS = 9, 400  # below six there is no 95 % interval of a median


@dataclass(frozen=True)
class Spread:
    """A median with what is around it."""

    median: float
    quartile_low: float
    quartile_high: float
    low: float  # of the 95 % interval of the median
    high: float


def spread(values: NDArray[np.float64]) -> Spread:
    """Median, quartiles, and the interval between the order statistics that holds the median 95 times of 100.

    With fewer than six values no two of them hold it so often: the interval is then from the least to the largest.
    """
    from scipy.stats import binom  # slow to import

    ordered = np.sort(values)
    low, median, high = (float(value) for value in np.percentile(ordered, (25, 50, 75)))
    outside = int(binom.ppf(0.025, len(ordered), 0.5))  # values on each side of the interval, at most
    first = max(0, outside - 1)
    return Spread(median, low, high, float(ordered[first]), float(ordered[len(ordered) - 1 - first]))


def _round_seconds(runs: Sequence[Timed], images: NDArray[Any]) -> list[float]:
    def seconds(run: Timed) -> float:
        started = time.perf_counter()
        run(images)
        return time.perf_counter() - started

    return [seconds(run) for run in runs]


def interleaved_seconds(runs: Sequence[Timed], images: NDArray[Any], rounds: int) -> NDArray[np.float64]:
    """Wall time of each run in each round (rounds, runs), the runs in turn, after rounds that warm up."""
    times = [_round_seconds(runs, images) for _ in range(WARM_UP_ROUNDS + rounds)]
    return np.array(times[WARM_UP_ROUNDS:])


def interleaved_for(runs: Sequence[Timed], images: NDArray[Any], seconds: float) -> NDArray[np.float64]:
    """The same for as many rounds as fit into a time, by the fastest round of the warm-up: 9 to 400."""
    warm_up = [sum(_round_seconds(runs, images)) for _ in range(WARM_UP_ROUNDS)]
    rounds = int(np.clip(seconds / min(warm_up), FEWEST_ROUNDS, MOST_ROUNDS))
    return np.array([_round_seconds(runs, images) for _ in range(rounds)])
