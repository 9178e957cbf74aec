"""Times in turn, and how sure their medians are."""

import time

import numpy as np
import pytest
from headwise_exporter.bench.timing import (
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    WARM_UP_ROUNDS,
    Waiting,
    interleaved_for,
    interleaved_seconds,
    spread,
)

IMAGES = np.zeros((1, 8, 8, 1), np.uint8)


def test_runs_take_turns() -> None:
    """In every round each run once, in one order and the other; rounds that warm up are not counted."""
    order: list[int] = []
    runs = [lambda images: order.append(0), lambda images: order.append(1)]
    times = interleaved_seconds(runs, IMAGES, rounds=20)
    assert times.shape == (20, 2)
    rounds = [tuple(order[start : start + 2]) for start in range(0, len(order), 2)]
    assert len(rounds) == WARM_UP_ROUNDS + 20
    assert set(rounds) == {(0, 1), (1, 0)}


def test_time_is_that_of_its_run() -> None:
    """Whatever the order of the round."""
    times = interleaved_seconds([lambda images: None, lambda images: time.sleep(0.003)], IMAGES, rounds=9)
    assert (times[:, 1] >= 0.003).all()
    assert np.median(times[:, 0]) < 0.003


def test_waiting_is_what_the_processor_did_not_work() -> None:
    """Sleeping is waiting, summing is not."""
    waiting = Waiting()
    with waiting.counted():
        time.sleep(0.05)
    assert waiting.share > 0.5
    waiting = Waiting(wall_seconds=2.0, processor_seconds=1.5)
    assert waiting.share == 0.25


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, FEWEST_ROUNDS), (60.0, MOST_ROUNDS)])
def test_rounds_are_as_many_as_the_time_allows(seconds: float, rounds: int) -> None:
    """Never fewer than a median needs, nor more than it is worth."""
    assert interleaved_for([lambda images: None], IMAGES, seconds).shape == (rounds, 1)


def test_median_stands_between_its_quartiles() -> None:
    """Of 1, 2 ... 5: with so few values the interval of the median is all of them."""
    of_five = spread(np.array([5.0, 1.0, 4.0, 2.0, 3.0]))
    assert (of_five.quartile_low, of_five.median, of_five.quartile_high) == (2.0, 3.0, 4.0)
    assert (of_five.low, of_five.high) == (1.0, 5.0)


@pytest.mark.parametrize("values", [9, 30, 100])
def test_interval_holds_the_median_95_times_of_100(values: int) -> None:
    """Of a skewed distribution, of which the median is ln 2; 2,000 samples."""
    samples = np.random.default_rng(0).exponential(size=(2000, values))
    spreads = [spread(sample) for sample in samples]
    held = np.mean([one.low <= np.log(2) <= one.high for one in spreads])
    assert 0.94 < held < 0.99
