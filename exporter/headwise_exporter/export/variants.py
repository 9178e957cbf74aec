"""Variants of `classify.onnx` in int8 and float16: made, measured against the float32 graph, and accepted or not.

A variant is accepted where both hold:

- on the validation images its accuracy is at most `max_drop_points` below that of the float32 graph (point estimate;
  the paired counts, images that one of the two alone labels rightly, are recorded beside it);
- on the golden set no logit is off by more than a tenth of the logits' range, and where the float32 model is sure the
  first label stays (`headwise.bundle.variant_failure`). Sure is: the first two logits are further apart than the
  variant's tolerance, which is `TOLERANCE_MARGIN` times the difference that was measured here. [our choice]

Accuracy decides whether int8 is good enough; the golden set decides, here and again wherever it is served, whether an
engine computes what was measured. Hence a tolerance of each variant's own: int8 is off by more than bf16, in the
logits rather than in the labels. The margin is for processors that round otherwise. A graph for GPUs is measured on the
CPU, on ONNX Runtime, which runs TensorRT's int8 graphs too and computes in float32 between values that it stores as
float16; GPUs add up in other ways, and the margin is wider. [our choice]

Calibration sees training images, acceptance validation images, and no test image is looked at. Graphs of accepted
variants stay in the folder, others are removed and keep their figures in the manifest.

Shape suffixes: N images, K labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from headwise.graphs import CLASSIFY_GRAPH, variant_failure
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray

from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import labelled_images
from headwise_exporter.engines import GPU_ENGINES, ONNXRUNTIME
from headwise_exporter.export.half import write_half_graph
from headwise_exporter.export.quantization import (
    INT8_FILES,
    QuantizationError,
    Run,
    open_graph,
    quantize,
)
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.progress import Advance, Count, Progress, silent, uncounted

INT8, HALF = "int8", "f16"
TOLERANCE_MARGIN = 1.5  # times the difference to the golden set that was measured here
GPU_TOLERANCE_MARGIN = 4.0  # the same of a graph for GPUs
SMALLEST_TOLERANCE = 1e-6  # a tolerance is never zero
LARGEST_DIFFERENCE = 0.1  # of the golden logits' range
EVALUATION_BATCH = 16
MAKERS = ("nncf", "openvino", "onnxruntime")  # whose versions decide what a variant is


def versions() -> dict[str, str | None]:
    """Of what makes variants; None where it is not installed."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: installed(package) for package in MAKERS}


def calibration_images(dataset: Dataset, images: int) -> NDArray[np.uint8]:
    """At most so many training images, drawn at random: the same ones every time."""
    sample = labelled_images(dataset.train, dataset.mean, dataset.std).sample(images)
    images_NYXC: NDArray[np.uint8] = sample.images_NYXC.numpy()
    return images_NYXC


def right_labels(run: Run, dataset: Dataset, on_images: Count = uncounted) -> NDArray[np.bool_]:
    """Whether the first label of each validation image is right, (N,)."""
    split, right = dataset.validation, []
    for first in range(0, len(split), EVALUATION_BATCH):
        chosen = slice(first, first + EVALUATION_BATCH)
        right.append(run(split.images_NYXC[chosen]).argmax(1) == split.labels_N[chosen])
        on_images(len(right[-1]))
    return np.concatenate(right)


def _golden_problem(variant: pb.Variant, logits_NK: NDArray[Any], golden_NK: NDArray[Any]) -> str | None:
    limit = LARGEST_DIFFERENCE * float(np.ptp(golden_NK))
    if not variant.golden_difference <= limit:
        return f"golden set differs by {variant.golden_difference:.3g}, a tenth of the logits' range is {limit:.3g}"
    return variant_failure(logits_NK, golden_NK, variant.golden_tolerance)


@dataclass(frozen=True)
class _Measured:
    """What all variants of a graph are compared with."""

    float_right_N: NDArray[np.bool_]
    golden: Mapping[str, NDArray[Any]]
    dataset: Dataset


def _measure(variant: pb.Variant, run: Run, measured: _Measured, on_images: Count) -> None:
    """Fill in the figures of a variant, and whether it is accepted."""
    golden_NK = measured.golden["logits"]
    logits_NK = run(measured.golden["images"])
    right_N, float_right_N = right_labels(run, measured.dataset, on_images), measured.float_right_N
    variant.validation_images = len(right_N)
    variant.validation_accuracy = float(right_N.mean())
    variant.float_validation_accuracy = float(float_right_N.mean())
    variant.images_lost = int((float_right_N & ~right_N).sum())
    variant.images_won = int((right_N & ~float_right_N).sum())
    variant.golden_difference = float(np.abs(logits_NK - golden_NK).max())
    for_gpus = variant.engine in GPU_ENGINES or variant.precision == HALF
    margin = GPU_TOLERANCE_MARGIN if for_gpus else TOLERANCE_MARGIN
    variant.golden_tolerance = max(margin * variant.golden_difference, SMALLEST_TOLERANCE)
    drop = variant.float_validation_accuracy - variant.validation_accuracy
    if drop > variant.max_drop + 1e-9:
        variant.reason = (
            f"loses {100 * drop:.2f} points of validation accuracy, of which it may lose {100 * variant.max_drop:g}"
        )
    else:
        variant.reason = _golden_problem(variant, logits_NK, golden_NK) or ""
    variant.accepted = not variant.reason


def _make_half(folder: Path, drop: float, measured: _Measured, advance: Advance) -> list[pb.Variant]:
    """The float16 graph, measured once on the CPU, as a variant for each engine that takes it."""
    advance(0, "float16")
    graph = write_half_graph(folder)
    measured_here = pb.Variant(precision=HALF, max_drop=drop)
    _measure(measured_here, open_graph(graph, ONNXRUNTIME), measured, advance)
    if measured_here.accepted:
        measured_here.path = graph.name
    else:
        graph.unlink()
    variants = [pb.Variant(engine=engine) for engine in GPU_ENGINES]
    for variant in variants:
        variant.MergeFrom(measured_here)
    return variants


def make_variants(
    folder: Path,
    golden: Mapping[str, NDArray[Any]],
    dataset: Dataset,
    settings: QuantizationSettings,
    progress: Progress = silent,
) -> list[pb.Variant]:
    """Make the variants of the settings in a folder with `classify.onnx`; those that fail leave no file.

    A variant that cannot be made, for want of a package or because one fails, says why.
    """
    if not (settings.engines or settings.half):
        return []
    images_NYXC, drop = calibration_images(dataset, settings.images), settings.max_drop_points / 100
    variants = []
    graphs = 1 + len(settings.engines) + settings.half
    with progress("quantise", graphs * len(dataset.validation), "images") as advance:
        advance(0, "evaluating the float32 graph")
        float_right_N = right_labels(open_graph(folder / CLASSIFY_GRAPH, ONNXRUNTIME), dataset, advance)
        measured = _Measured(float_right_N, golden, dataset)
        for engine in settings.engines:
            variant = pb.Variant(engine=engine, precision=INT8, max_drop=drop)
            variants.append(variant)
            try:
                advance(0, f"calibrating for {engine}")
                graph = quantize(folder / CLASSIFY_GRAPH, engine, folder, images_NYXC)
            except QuantizationError as error:
                variant.reason = f"not made: {error}"
                advance(len(dataset.validation))
                continue
            variant.calibration_images = len(images_NYXC)
            advance(0, f"evaluating {graph.name}")
            _measure(variant, open_graph(graph, engine), measured, advance)
            if variant.accepted:
                variant.path = graph.name
            else:
                for name in INT8_FILES[engine]:
                    (folder / name).unlink()
        if settings.half:
            variants += _make_half(folder, drop, measured, advance)
    return variants


def check_variant(folder: Path, variant: pb.Variant, golden: Mapping[str, NDArray[Any]]) -> str | None:
    """Run an accepted variant on the golden set, one for GPUs on the CPU; why it fails, or None.

    Raises:
        QuantizationError: its engine is not installed here.
    """
    logits_NK = open_graph(folder / variant.path, variant.engine)(golden["images"])
    return variant_failure(logits_NK, golden["logits"], variant.golden_tolerance)
