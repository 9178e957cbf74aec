"""Counts and times in words."""

import pytest
from headwise_exporter.progress import counted, duration, silent


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (40, "40 seconds"),
        (89.4, "89 seconds"),
        (90, "2 minutes"),
        (3050, "51 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_duration_in_words(seconds: float, words: str) -> None:
    """No finer than an estimate is."""
    assert duration(seconds) == words


def test_one_is_counted_in_the_singular() -> None:
    """And thousands are set apart."""
    assert [counted(1, "epochs"), counted(1836, "images")] == ["1 epoch", "1,836 images"]


def test_silent_bar_takes_everything() -> None:
    """As the others do."""
    with silent("train", None, "images") as advance:
        advance()
        advance(3, "note", resumed=True)
