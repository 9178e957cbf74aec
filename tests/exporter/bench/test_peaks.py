"""The machine's fastest products are in the type that they are said to be in."""

import pytest
from headwise_exporter.bench import peaks
from headwise_exporter.bench.sessions import SessionError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take a millisecond."""
    monkeypatch.setattr(peaks, "SIDE", 64)
    monkeypatch.setattr(peaks, "SECONDS", 0.0)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_both_engines_run_products_in_both_types(engine: str, precision: peaks.Precision) -> None:
    """Checked after the runtime's own optimisation."""
    assert peaks.operations_per_second(engine, precision, 1) > 0


def test_type_that_an_engine_lacks_has_no_peak() -> None:
    """ONNX Runtime computes no bf16 on a CPU: float32 under that name would be no peak of it."""
    with pytest.raises(SessionError, match=r"to run in bf16 on onnxruntime, found 4 in f32"):
        peaks.operations_per_second("onnxruntime", "bf16", 1)
    assert peaks.fastest(["onnxruntime"], "bf16", 1) is None


def test_fastest_engine_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, with what it reached."""
    reached = {"onnxruntime": 1.0, "openvino": 2.0}
    monkeypatch.setattr(peaks, "operations_per_second", lambda engine, *others: reached[engine])
    assert peaks.fastest(["onnxruntime", "openvino"], "f32", 1) == ("openvino", 2.0)
