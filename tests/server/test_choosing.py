"""Of several sessions the fastest serves, and a less exact one only where that is worth its while."""

import time

import numpy as np
import pytest
from headwise_server.choosing import ENOUGH_SECONDS, LEAST_ROUNDS, Measured, fastest, measure
from headwise_server.engines import Outputs, Precision
from headwise_server.timing import TimedSession


class Slow:
    """A session that takes so many seconds for an image, and counts its runs."""

    def __init__(self, seconds: float, precision: Precision = "f32") -> None:
        self.one_image, self.precision, self.runs = seconds, precision, list[int]()

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """Nothing, late."""
        self.runs.append(len(images_NYXC))
        time.sleep(self.one_image * len(images_NYXC))
        return {}


def measured(one: float, full: float, precision: Precision = "f32") -> Measured:
    """A session with these times."""
    return Measured(TimedSession(Slow(0.0, precision)), {1: one, 8: full})


def test_sessions_take_turns_and_are_told_apart() -> None:
    """The same number of runs of each batch for each session; the slower one is slower, and the turn ends in time."""
    slow, quick = Slow(0.05), Slow(0.002)
    began = time.perf_counter()
    results = measure([TimedSession(slow), TimedSession(quick)], [(1, 8, 8, 1), (4, 8, 8, 1)])
    assert time.perf_counter() - began < ENOUGH_SECONDS + 10
    assert slow.runs == quick.runs
    assert slow.runs.count(1) == slow.runs.count(4) >= LEAST_ROUNDS
    assert results[0].typical_seconds > 1.5 * results[1].typical_seconds
    assert set(results[0].seconds) == {1, 4}


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], "f32"),
        ([(0.6, 0.6, "int8")], "int8"),
        ([(0.97, 0.97, "int8")], "f32"),  # not worth it
        ([(0.7, 0.7, "bf16"), (0.69, 0.69, "int8")], "bf16"),
        ([(0.7, 0.7, "bf16"), (0.5, 0.5, "int8")], "int8"),
        ([(0.5, 2.5, "int8")], "f32"),  # both batches matter
    ],
)
def test_less_exact_session_must_be_clearly_faster(others: list[tuple[float, float, Precision]], chosen: str) -> None:
    """By a twentieth of the geometric mean over both batches, against the best that is more exact."""
    candidates = [measured(1.0, 1.0), *(measured(*other) for other in others)]
    assert fastest(candidates).session.precision == chosen


def test_description_has_milliseconds_by_batch() -> None:
    """For the log."""
    assert measured(0.0012, 0.0089, "int8").describe() == "int8 1.20 / 8.90"
