"""What a graph takes in a process of its own."""

from pathlib import Path

import pytest
from headwise_exporter.bench.fresh import footprint, peak_memory_bytes
from headwise_exporter.bench.sessions import SessionError


def test_fresh_process_says_what_it_took(bundle: Path) -> None:
    """Time to load, and memory: less than that of this process, which has torch."""
    taken = footprint(bundle / "classify.onnx", "onnxruntime", "f32", 1, (2, 8, 8, 1))
    assert 0 < taken.load_seconds < 60
    own = peak_memory_bytes()
    assert own is not None
    assert taken.peak_memory_bytes is not None
    assert 10 * 2**20 < taken.peak_memory_bytes < own


def test_failure_of_the_process_is_the_reason(tmp_path: Path) -> None:
    """Its last line, which names what it could not load."""
    with pytest.raises(SessionError, match=r"fresh process, found: .*missing\.onnx"):
        footprint(tmp_path / "missing.onnx", "onnxruntime", "f32", 1, (1, 8, 8, 1))
