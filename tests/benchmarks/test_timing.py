"""What all benchmarks time by."""

from pathlib import Path

import numpy as np
import pytest
import timing


def test_ratio_is_a_median_between_its_quartiles() -> None:
    """Of 1, 2 ... 5; shown with two digits."""
    figures = timing.quartiles(np.arange(1.0, 6.0))
    assert figures == {"ratio": 3.0, "ratio_quartile_low": 2.0, "ratio_quartile_high": 4.0}
    assert timing.show_quartiles(figures) == "3.00 (2.00-4.00)"


@pytest.mark.parametrize("name", timing.runners())
def test_runtimes_run_the_bundle(name: str, bundle: Path) -> None:
    """Every runtime takes the graph and the images."""
    runner = timing.runners()[name](bundle / "classify.onnx", 1)
    assert runner(np.zeros((2, 8, 8, 1), np.uint8)) is not None
