"""Which of several sessions of the same graph is served: the fastest on this machine, as measured side by side.

They run in turns, so that what else the machine does slows all of them down, and each counts with its fastest run, as
what else the machine does only adds to it: on a busy one medians of half a second chose by chance. Few images and full
batches both matter, so a session's time is the geometric mean of that of one image and that of a full batch. A less
exact session must be faster by `WORTH_WHILE`: what it is off by is not paid for with noise. [our choice]

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwise_server.timing import TimedSession

WORTH_WHILE = 0.95  # of the time of a more exact session, at most
LEAST_ROUNDS, MOST_ROUNDS = 3, 40
ENOUGH_SECONDS = 0.5  # of rounds, once there are enough


@dataclass(frozen=True)
class Measured:
    """A session, and the seconds of its fastest run by images in the batch."""

    session: TimedSession
    seconds: dict[int, float]

    @property
    def typical_seconds(self) -> float:
        """Geometric mean of its times."""
        return math.exp(statistics.fmean(math.log(value) for value in self.seconds.values()))

    def describe(self) -> str:
        """Precision and milliseconds by batch."""
        return f"{self.session.precision} {' / '.join(f'{1e3 * value:.2f}' for value in self.seconds.values())}"


def measure(sessions: Sequence[TimedSession], shapes: Sequence[tuple[int, ...]]) -> list[Measured]:
    """Run black images in turns; sessions that have been warmed up.

    Args:
        shapes: of the batches, (N, Y, X, C).
    """
    batches = [np.zeros(shape, np.uint8) for shape in shapes]
    seconds: list[dict[int, list[float]]] = [{len(batch): [] for batch in batches} for _ in sessions]
    ends = time.perf_counter() + ENOUGH_SECONDS
    for rounds in range(MOST_ROUNDS):
        if rounds >= LEAST_ROUNDS and time.perf_counter() > ends:
            break
        for batch in batches:
            for session, of_session in zip(sessions, seconds, strict=True):
                of_session[len(batch)].append(session.seconds(batch))
    return [
        Measured(session, {images: min(values) for images, values in of_session.items()})
        for session, of_session in zip(sessions, seconds, strict=True)
    ]


def fastest(measured: Sequence[Measured]) -> Measured:
    """The one to serve.

    Args:
        measured: the most exact first.
    """
    best = measured[0]
    for candidate in measured[1:]:
        if candidate.typical_seconds <= WORTH_WHILE * best.typical_seconds:
            best = candidate
    return best
