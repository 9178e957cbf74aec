"""Growth of the memory of a process."""

import os
from pathlib import Path

import pytest
from resident_memory import growth, resident_mib


def test_growth_is_between_the_second_and_the_last_tenth() -> None:
    """What the first tenth fills is no growth."""
    values = growth([*[1.0] * 10, *[50.0] * 10, *[70.0] * 70, *[60.0] * 10])
    assert values == {"second_tenth": 50.0, "last_tenth": 60.0, "largest": 70.0, "growth": 10.0}


def test_few_samples_are_refused() -> None:
    """They say nothing."""
    with pytest.raises(ValueError, match="expected 20 samples or more, found 19"):
        growth([1.0] * 19)


def test_resident_set_is_that_of_the_system() -> None:
    """Of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    assert resident_mib(os.getpid()) == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, rel=0.1)
