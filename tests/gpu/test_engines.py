"""The server's engines on a GPU; skipped, and says so, where the installed ONNX Runtime has not their provider."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from headwise.bundle import read_golden_set, read_manifest
from headwise_server.engines import Session, create

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def open_session(name: str, graph: Path, cache: Path) -> Session:
    """In float32, or skip."""
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        pytest.skip(f"needs an ONNX Runtime with {PROVIDERS[name]}, and this one has none")
    return create(name).open_session(graph, "f32", 1, cache)


@pytest.mark.parametrize("graph", ["classify", "explain"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_engine_gives_what_the_golden_set_says(bundle: Path, tmp_path: Path, name: str, graph: str) -> None:
    """Every output, in every batch size that has places of its own and between them."""
    golden, tolerance = read_golden_set(bundle), read_manifest(bundle).golden_tolerance
    session = open_session(name, bundle / f"{graph}.onnx", tmp_path)
    for count in (1, 3, len(golden["images"]), 70):
        images = np.resize(golden["images"], (count, *golden["images"].shape[1:]))
        for output, value in session.run(images).items():
            expected = np.resize(golden[output], (count, *golden[output].shape[1:]))
            np.testing.assert_allclose(value, expected, atol=tolerance)


def test_runs_are_captured(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing in the log says that CUDA graphs were left out."""
    open_session("cuda", bundle / "classify.onnx", tmp_path)
    assert "without CUDA graphs" not in caplog.text
