"""Interleaved timing, and medians that say how sure they are.

Runs take turns, so that a slow moment of the machine meets all of them; ratios are of times in the same round. The
order within a round is random: in a fixed one, on a busy machine, the same runs were always those that had to wait for
a core (measured: a run of 2 ms took 18). The interval of a median is that of order statistics, which assumes nothing
about how times are spread.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def _rounds(
    runs: Sequence[Timed], images: NDArray[Any], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> NDArray[np.float64]:
    order, times = np.random.default_rng(0), np.empty((rounds, len(runs)))
    for row in times:
        for column in order.permutation(len(runs)):
            started = clock()
            runs[column](images)
            row[column] = clock() - started
    return times


def interleaved_seconds(
    runs: Sequence[Timed], images: NDArray[Any], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> NDArray[np.float64]:
    """Time of each run in each round (rounds, runs), the runs in turn, after rounds that warm up.

    Args:
        clock: wall time by default; `time.process_time` counts what the processor did, waiting left out.
    """
    _rounds(runs, images, WARM_UP_ROUNDS)
    return _rounds(runs, images, rounds, clock)


def interleaved_for(runs: Sequence[Timed], images: NDArray[Any], seconds: float) -> NDArray[np.float64]:
    """The same for as many rounds as fit into a time, by the fastest round of the warm-up: 9 to 400."""
    fastest = _rounds(runs, images, WARM_UP_ROUNDS).sum(1).min()
    return _rounds(runs, images, int(np.clip(seconds / max(fastest, 1e-9), FEWEST_ROUNDS, MOST_ROUNDS)))


@dataclass
class Waiting:
    """How long single-threaded work had to wait for a core: what wall time has beyond the time of the processor."""

    wall_seconds: float = 0.0
    processor_seconds: float = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is done in the block."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall_seconds += time.perf_counter() - wall
        self.processor_seconds += time.process_time() - processor

    @property
    def share(self) -> float:
        """Of the wall time; 0 on an idle machine."""
        return max(0.0, 1 - self.processor_seconds / self.wall_seconds)
