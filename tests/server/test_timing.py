"""What a session is expected to take, by what it took."""

from types import SimpleNamespace

import numpy as np
import pytest
from headwise_server import timing
from headwise_server.engines import Outputs, Precision
from headwise_server.timing import FORGOTTEN_SECONDS, LATEST, WARM_UP_RUNS, TimedSession

SHAPE = (8, 8, 1)


class Clock:
    """A clock that the session moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """As the module `time` has it."""
        return self.now


class Slow:
    """Takes as long as its factor says, 10 ms an image where it is 1."""

    precision: Precision = "f32"

    def __init__(self, clock: Clock) -> None:
        self.clock, self.factor, self.first_run_seconds = clock, 1.0, 5.0

    def run(self, images_NYXC: np.ndarray, **others: np.ndarray) -> Outputs:
        """The first run ever takes seconds more."""
        self.clock.now += self.factor * 0.01 * len(images_NYXC) + self.first_run_seconds
        self.first_run_seconds = 0.0
        return {"logits": np.zeros((len(images_NYXC), 2), np.float32)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the module."""
    made = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.fixture
def slow(clock: Clock) -> Slow:
    """The session within."""
    return Slow(clock)


@pytest.fixture
def session(slow: Slow) -> TimedSession:
    """Warmed up with one image and with eight."""
    made = TimedSession(slow)
    assert made.expected_seconds(1) == 0.0  # before the warm-up
    made.run(np.zeros((3, *SHAPE), np.uint8))
    assert made.expected_seconds(3) == 0.0
    for images in (1, 8):
        assert len(made.warm_up((images, *SHAPE))["logits"]) == images
    return made


def run(session: TimedSession, slow: Slow, *factors: float) -> None:
    """Run a batch at each factor."""
    for factor in factors:
        slow.factor = factor
        session.run(np.zeros((8, *SHAPE), np.uint8))


def test_fastest_run_of_the_warm_up_counts(clock: Clock) -> None:
    """The first, which sets the runtime up, does not."""
    session = TimedSession(Slow(clock))
    session.warm_up((1, *SHAPE))
    assert clock.now == pytest.approx(1000 + 5 + WARM_UP_RUNS * 0.01)
    assert session.expected_seconds(1) == pytest.approx(0.01)


@pytest.mark.parametrize(("images", "seconds"), [(1, 0.01), (3, 0.03), (8, 0.08), (20, 0.20)])
def test_other_batch_sizes_are_expected_in_proportion(session: TimedSession, images: int, seconds: float) -> None:
    """Between those of the warm-up, and beyond the largest."""
    assert session.expected_seconds(images) == pytest.approx(seconds)


def test_slower_machine_is_expected_to_stay_slower(session: TimedSession, slow: Slow) -> None:
    """By the median factor of the latest batches."""
    run(session, slow, *[2.0] * LATEST)
    assert session.expected_seconds(8) == pytest.approx(0.16)
    run(session, slow, *[1.0] * LATEST)
    assert session.expected_seconds(8) == pytest.approx(0.08)


@pytest.mark.parametrize("stall", [1e-3, 100.0])
def test_one_stall_changes_nothing(session: TimedSession, slow: Slow, stall: float) -> None:
    """Alone or among others; nor does one batch that was far too fast."""
    run(session, slow, stall)
    assert session.expected_seconds(8) <= 0.08 + 1e-9
    run(session, slow, *[1.0] * 6, stall)
    assert session.expected_seconds(8) == pytest.approx(0.08)


def test_measurements_are_forgotten(session: TimedSession, slow: Slow, clock: Clock) -> None:
    """No longer than `FORGOTTEN_SECONDS` do they count: then the warm-up does again."""
    run(session, slow, *[3.0] * LATEST)
    clock.now += FORGOTTEN_SECONDS - 5
    assert session.expected_seconds(8) == pytest.approx(0.24)
    clock.now += 6
    assert session.expected_seconds(8) == pytest.approx(0.08)
