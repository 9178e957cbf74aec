"""How long a session takes for a batch, measured where it runs.

The warm-up gives seconds by batch size. What later batches take in comparison is the session's slowness: the median of
the latest, so that one stall (a paused container, a busy neighbour) changes nothing; forgotten after some seconds, so
that no measurement lasts longer than what it measured [our choice].

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headwise_server.engines import Outputs, Precision, Session

LATEST = 15  # batches
FORGOTTEN_SECONDS = 10.0
WARM_UP_RUNS = 3  # of each batch size; the fastest counts, for the first ones set the runtime up


class TimedSession:
    """A session that knows how long it takes. Safe to call from several threads at once.

    Args:
        model: whose graph it runs.
        graph: "classify" or "explain".
    """

    def __init__(self, session: Session, model: str = "", graph: str = "") -> None:
        self.precision: Precision = session.precision
        self.model, self.graph = model, graph
        self._session = session
        self._sizes: list[int] = []
        self._seconds: list[float] = []
        self._slowness: deque[tuple[float, float]] = deque(maxlen=LATEST)  # when, and by what factor

    def warm_up(self, shape: Sequence[int]) -> Outputs:
        """Run black images of the shape (N, Y, X, C), so that no client pays for a first run, and keep what that takes.

        Batch sizes are warmed up in rising order.
        """
        images_NYXC, seconds = np.zeros(shape, np.uint8), math.inf
        for _ in range(WARM_UP_RUNS):
            began = time.monotonic()
            outputs = self._session.run(images_NYXC)
            seconds = min(seconds, time.monotonic() - began)
        self._sizes.append(len(images_NYXC))
        self._seconds.append(seconds)
        return outputs

    def run(self, images_NYXC: NDArray[np.uint8]) -> Outputs:
        """Every output of the graph, by name."""
        began = time.monotonic()
        outputs = self._session.run(images_NYXC)
        now = time.monotonic()
        if expected := self._after_warm_up(len(images_NYXC)):
            self._slowness.append((now, (now - began) / expected))
        return outputs

    def _after_warm_up(self, images: int) -> float:
        if not self._sizes:
            return 0.0
        largest = self._sizes[-1]
        seconds = float(np.interp(min(images, largest), self._sizes, self._seconds))
        return seconds * max(1.0, images / largest)

    def expected_seconds(self, images: int) -> float:
        """Of a batch of so many images; 0 before the warm-up."""
        since = time.monotonic() - FORGOTTEN_SECONDS
        latest = [factor for when, factor in tuple(self._slowness) if when >= since]
        return self._after_warm_up(images) * statistics.median_low([*latest, 1.0])
