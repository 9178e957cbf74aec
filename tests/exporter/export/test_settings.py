"""Settings of an export are checked as they are made."""

import pytest
from headwise_exporter.export.settings import QuantizationSettings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"engines": ("tvm",)}, "expected engines to be some of onnxruntime, openvino, tensorrt, found tvm"),
        ({"images": 0}, "expected images to be at least 1, found 0"),
        ({"max_drop_points": -1.0}, "expected max_drop_points in 0 .. 100"),
        ({"max_drop_points": float("nan")}, "expected max_drop_points in 0 .. 100"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], expected: str) -> None:
    """The message says what was expected and what was found."""
    with pytest.raises(ValueError, match=expected):
        QuantizationSettings(**settings)  # type: ignore[arg-type]  # of any kind
