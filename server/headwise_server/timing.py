"""How long a session takes for a batch, measured where it runs.

The warm-up gives seconds by batch size. What later batches take in comparison is the session's slowness: the median of
the latest, so that one stall (a paused container, say) changes nothing; forgotten when no batch has run for
some seconds, so that no measurement lasts longer than what it measured [our choice].

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import bisect
import math
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

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
        graph: "classify", "explain", "maps" or "silenced".
    """

    def __init__(self, session: Session, model: str = "", graph: str = "") -> None:
        self.precision: Precision = session.precision
        self.model, self.graph = model, graph
        self._session = session
        self._sizes: list[int] = []  # of the batches of the warm-up, rising
        self._seconds: list[float] = []
        self._latest: deque[float] = deque(maxlen=LATEST)  # what batches took, over what the warm-up makes expect
        self._measured = (0.0, 1.0)  # when the latest batch ended, and the slowness then

    def warm_up(self, shape: Sequence[int], **others: NDArray[Any]) -> Outputs:
        """Run black images of the shape (N, Y, X, C), so that no client pays for a first run, and keep what that takes.

        Batch sizes are warmed up in rising order.

        Args:
            others: as a session takes them.
        """
        images_NYXC, seconds = np.zeros(shape, np.uint8), math.inf
        for _ in range(WARM_UP_RUNS):
            began = time.monotonic()
            outputs = self._session.run(images_NYXC, **others)
            seconds = min(seconds, time.monotonic() - began)
        self._sizes.append(len(images_NYXC))
        self._seconds.append(seconds)
        return outputs

    def seconds(self, images_NYXC: NDArray[np.uint8]) -> float:
        """Time of one run that counts for nothing else."""
        began = time.perf_counter()
        self._session.run(images_NYXC)
        return time.perf_counter() - began

    def run(self, images_NYXC: NDArray[np.uint8], **others: NDArray[Any]) -> Outputs:
        """Every output of the graph, by name."""
        began = time.monotonic()
        outputs = self._session.run(images_NYXC, **others)
        now = time.monotonic()
        if expected := self._after_warm_up(len(images_NYXC)):
            if now - self._measured[0] > FORGOTTEN_SECONDS:
                self._latest.clear()
            self._latest.append((now - began) / expected)
            self._measured = (now, statistics.median_low([*self._latest, 1.0]))
        return outputs

    def _after_warm_up(self, images: int) -> float:
        if not self._sizes:
            return 0.0
        last = bisect.bisect_left(self._sizes, images)
        if last == 0 or last == len(self._sizes):  # fewer images than any batch of the warm-up, or more
            nearest = max(last - 1, 0)
            return self._seconds[nearest] * max(1.0, images / self._sizes[nearest])
        (low, high), (fast, slow) = self._sizes[last - 1 : last + 1], self._seconds[last - 1 : last + 1]
        return fast + (slow - fast) * (images - low) / (high - low)

    def expected_seconds(self, images: int) -> float:
        """Of a batch of so many images; 0 before the warm-up."""
        when, slowness = self._measured
        is_known = time.monotonic() - when <= FORGOTTEN_SECONDS
        return self._after_warm_up(images) * (slowness if is_known else 1.0)
