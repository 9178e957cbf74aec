"""int8 variants are accepted on validation accuracy and the golden set, or are in the manifest with their figure."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import support
from headwise.bundle import read_golden_set, read_manifest
from headwise.v1.bundle_pb2 import Variant
from headwise_exporter.data.base import Dataset, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.export import quantization, variants
from headwise_exporter.export.quantization import Run
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.variants import calibration_images, check_variant, make_variants, right_labels


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The data set of the bundle."""
    return load(DatasetSettings("digits"))


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to make variants in."""
    return Path(shutil.copytree(bundle, tmp_path / "digits" / "1"))


def made(folder: Path, digits: Dataset, engine: str = "onnxruntime", **settings: float) -> Variant:
    """The variant for one engine."""
    chosen = QuantizationSettings(engines=(engine,), images=32, **settings)  # type: ignore[arg-type]  # numbers
    [variant] = make_variants(folder, read_golden_set(folder), digits, chosen)
    return variant


def shifted(monkeypatch: pytest.MonkeyPatch, shift: Callable[[np.ndarray], np.ndarray]) -> None:
    """Have every int8 graph give something else than it does."""
    open_graph = quantization.open_graph

    def opened(graph: Path, engine: str) -> Run:
        run = open_graph(graph, engine)
        return run if "int8" not in graph.name else lambda images_NYXC: shift(run(images_NYXC))

    monkeypatch.setattr(variants, "open_graph", opened)


def test_accepted_variants_have_their_figures(int8_bundle: Path, digits: Dataset) -> None:
    """For each engine: accuracies on the validation images, paired counts that fit, and a tolerance with a margin."""
    manifest = read_manifest(int8_bundle)
    right = right_labels(quantization.open_graph(int8_bundle / "classify.onnx", "onnxruntime"), digits)
    assert [variant.engine for variant in manifest.variants] == ["onnxruntime", "openvino"]
    for variant in manifest.variants:
        assert (variant.accepted, variant.reason, variant.precision) == (True, "", "int8")
        assert (variant.validation_images, variant.calibration_images) == (len(digits.validation), 64)
        assert variant.float_validation_accuracy == right.mean()
        won = round((variant.validation_accuracy - right.mean()) * len(right))
        assert variant.images_won - variant.images_lost == won
        assert variant.golden_tolerance == pytest.approx(1.5 * variant.golden_difference)
        assert (int8_bundle / variant.path).is_file()
        assert check_variant(int8_bundle, variant, read_golden_set(int8_bundle)) is None


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_variant_that_loses_too_much_is_kept_as_a_figure(
    copy: Path, digits: Dataset, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of it stays; what it lost is in the reason."""
    before = {path.name for path in copy.iterdir()}
    shifted(monkeypatch, lambda logits_NK: -logits_NK)
    variant = made(copy, digits, engine)
    assert (variant.accepted, variant.path) == (False, "")
    assert variant.reason.endswith("points of validation accuracy, of which it may lose 0.5")
    assert variant.validation_accuracy < variant.float_validation_accuracy
    assert {path.name for path in copy.iterdir()} == before


def test_accuracy_alone_is_not_enough(copy: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are far from the golden ones are refused though no label changes."""
    shifted(monkeypatch, lambda logits_NK: 3 * logits_NK)
    variant = made(copy, digits, max_drop_points=100)
    assert variant.images_lost <= 3
    assert "golden set differs by" in variant.reason
    assert "a tenth of the logits' range" in variant.reason


def test_changed_engine_fails_the_check(int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted once is checked again by its own tolerance."""
    shifted(monkeypatch, lambda logits_NK: logits_NK + 1)
    [variant, _] = read_manifest(int8_bundle).variants
    assert "golden set differs by" in str(check_variant(int8_bundle, variant, read_golden_set(int8_bundle)))


def test_missing_nncf_is_a_variant_that_was_not_made(
    copy: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line that installs it; it has no figures."""
    monkeypatch.setitem(quantization.NEEDS, "openvino", ("no_such_package",))
    variant = made(copy, digits, "openvino")
    assert variant.reason == "not made: no_such_package missing: pip install 'headwise[quantize]'"
    assert (variant.accepted, variant.validation_images, variant.calibration_images) == (False, 0, 0)


def test_calibration_sees_training_images_and_always_the_same(digits: Dataset) -> None:
    """As many as asked for, or all there are."""
    chosen = calibration_images(digits, 20)
    np.testing.assert_array_equal(chosen, calibration_images(digits, 20))
    known = {image.tobytes() for image in digits.train.images_NYXC}
    assert len(chosen) == 20
    assert {image.tobytes() for image in chosen} <= known
    assert len(calibration_images(digits, 10**6)) == len(digits.train)


def test_bar_counts_validation_images(copy: Path, digits: Dataset) -> None:
    """Once for the float32 graph and once for each engine, also where a variant cannot be made."""
    bars = support.Bars()
    settings = QuantizationSettings(images=32)
    make_variants(copy, read_golden_set(copy), digits, settings, bars.open)
    assert [(bar.description, bar.done) for bar in bars] == [("quantise", 3 * len(digits.validation))]
    assert bars[0].total == bars[0].done
    assert make_variants(copy, {}, digits, QuantizationSettings(engines=())) == []


def test_float16_graph_is_a_variant_for_each_gpu_engine(copy: Path, digits: Dataset) -> None:
    """One file, measured once, on the CPU; its tolerance leaves room for a GPU's sums; verify takes it."""
    settings = QuantizationSettings(engines=(), half=True, max_drop_points=100)
    golden = read_golden_set(copy)
    cuda, tensorrt = made_half = make_variants(copy, golden, digits, settings)
    assert [(one.engine, one.precision, one.path) for one in made_half] == [
        ("cuda", "f16", "classify.fp16.onnx"),
        ("tensorrt", "f16", "classify.fp16.onnx"),
    ]
    assert [one.accepted for one in made_half] == [True, True]
    assert cuda.golden_tolerance == variants.GPU_TOLERANCE_MARGIN * cuda.golden_difference > 0
    assert check_variant(copy, tensorrt, golden) is None


def test_float16_graph_that_is_rejected_leaves_no_file(
    copy: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both variants keep the figures and the reason."""
    monkeypatch.setattr(variants, "LARGEST_DIFFERENCE", 0.0)
    settings = QuantizationSettings(engines=(), half=True, max_drop_points=100)
    rejected = make_variants(copy, read_golden_set(copy), digits, settings)
    assert [one.accepted for one in rejected] == [False, False]
    assert all("golden set differs" in one.reason and not one.path for one in rejected)
    assert not (copy / "classify.fp16.onnx").exists()


def test_int8_graph_for_tensorrt_is_measured_on_the_cpu(copy: Path, digits: Dataset) -> None:
    """With a wider margin, as a GPU rounds otherwise; no CPU engine takes it for its own."""
    variant = made(copy, digits, "tensorrt")
    assert (variant.accepted, variant.path) == (True, "classify.tensorrt.int8.onnx")
    assert variant.golden_tolerance == variants.GPU_TOLERANCE_MARGIN * variant.golden_difference > 0
    assert check_variant(copy, variant, read_golden_set(copy)) is None
