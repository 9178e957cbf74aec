"""How fast a bundle's graphs are here, beside the dense model that they were made from.

The baseline is the dense model in float32 on ONNX Runtime. A bundle does not hold it. At export it is at hand; later
its shape in the manifest is enough, with random weights: no operation that is timed depends on values.

Every graph must give the golden set before it is timed. Accuracies are those of validation images: the manifest has
them for float32, and for other types what was measured at export, where those images are at hand.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from headwise.bundle import accepted_variants, check_files, read_golden_set, read_manifest
from headwise.graphs import CLASSIFY_GRAPH, OUTPUTS, golden_differences, variant_failure
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray

from headwise_exporter.bench.sessions import Precision, Run, SessionError, missing, processor_has_bf16
from headwise_exporter.bench.variants import DENSE, PRUNED, BenchSettings, Candidate, bench
from headwise_exporter.data.base import Split
from headwise_exporter.engines import CUDA, ENGINES, ONNXRUNTIME, OPENVINO, TENSORRT
from headwise_exporter.errors import ExporterError
from headwise_exporter.export.attribution import Classify
from headwise_exporter.export.graphs import to_onnx
from headwise_exporter.model.cct import CCT, InputNormalisation, count_parameters
from headwise_exporter.model.config import CCTConfig, cct, count_macs
from headwise_exporter.progress import Progress, silent

AT_EXPORT = BenchSettings(batches=(1, 8), threads=(1,), seconds=1.0)
VALIDATION_BATCH = 64
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    ONNXRUNTIME: ("f32",),
    OPENVINO: ("f32", "bf16"),
    CUDA: ("f32",),
    TENSORRT: ("f32",),
}
Golden = dict[str, NDArray[Any]]


class BenchError(ExporterError):
    """A bundle does not say what is needed to compare it with the model that it was made from."""


def dense_config(manifest: pb.Bundle) -> CCTConfig:
    """Configuration of the dense model that a bundle was made from.

    Raises:
        BenchError: its sizes do not give the parameters and operations that the manifest states.
    """
    architecture = manifest.architecture
    encoders, convolutions = architecture.dense_encoders, architecture.convolutions
    conv: dict[str, Any] = {}
    if architecture.HasField("convolutions"):
        conv = {
            "conv_hidden_channels": tuple(architecture.dense_filters),
            "conv_kernel": convolutions.kernel,
            "conv_stride": convolutions.stride,
            "conv_padding": convolutions.padding,
        }
    config = cct(
        image_size=manifest.input.height,
        channels=manifest.input.channels,
        labels=len(manifest.labels),
        depth=len(encoders),
        heads=encoders[0].heads,
        width=architecture.width,
        feed_forward=encoders[0].feed_forward,
        **conv,
    )
    counted = (count_parameters(CCT(config)), count_macs(config))
    stated = (manifest.metrics.parameters_dense, manifest.metrics.macs_dense)
    if counted != stated:
        raise BenchError(
            f"expected the dense model of {manifest.name} version {manifest.version} to have {stated[0]:,} parameters "
            f"and {stated[1]:,.0f} multiply-accumulates, as its manifest states; its sizes there give {counted[0]:,} "
            f"and {counted[1]:,}. Export it again with this release."
        )
    return config


def random_dense_model(manifest: pb.Bundle) -> CCT:
    """A model of the dense one's shape with random weights.

    Raises:
        BenchError: as `dense_config`.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return CCT(dense_config(manifest))


def write_dense_graph(manifest: pb.Bundle, model: CCT, path: Path) -> None:
    """`classify.onnx` of a dense model, weights inside."""
    normalise = InputNormalisation(tuple(manifest.input.mean), tuple(manifest.input.std))
    images = torch.zeros(2, *image_shape(manifest), dtype=torch.uint8)  # as export.graphs has it
    onnx.save_model(to_onnx(Classify(normalise, model), {"images": images}, OUTPUTS[CLASSIFY_GRAPH]), path)


def image_shape(manifest: pb.Bundle) -> tuple[int, int, int]:
    """Height, width and channels."""
    return manifest.input.height, manifest.input.width, manifest.input.channels


def golden_failure(outputs: Golden, golden: Golden, manifest: pb.Bundle, precision: Precision) -> str | None:
    """Why a type is not accepted, as the server has it: too far from the golden set, or another first label."""
    full = precision == "f32"
    [worst] = golden_differences({"logits": outputs["logits"]}, golden).values()
    tolerance = manifest.golden_tolerance if full else manifest.golden_tolerance_reduced
    if not worst <= tolerance:
        return f"expected the golden set within {tolerance:.3g}, found a difference of {worst:.3g}"
    changed = int((outputs["logits"].argmax(1) != golden["logits"].argmax(1)).sum())
    return f"expected the first label of each golden image, found {changed} others" if changed and not full else None


def _accuracy(run: Run, split: Split) -> float:
    starts = range(0, len(split), VALIDATION_BATCH)
    batches = (split.images_NYXC[start : start + VALIDATION_BATCH] for start in starts)
    labels_N = np.concatenate([run(images)["logits"].argmax(1) for images in batches])
    return float((labels_N == split.labels_N).mean())


def _recorded_accuracy(manifest: pb.Bundle, model: str, engine: str, precision: Precision) -> float | None:
    """On validation images: of float32 by the pruning, of other types by the bench at export."""
    if precision == "f32":
        if model == DENSE:
            return manifest.pruning.dense_validation_accuracy
        chosen = [candidate for candidate in manifest.pruning.candidates if candidate.chosen]
        return chosen[0].validation_accuracy if chosen else None
    for variant in manifest.bench.variants:
        if (variant.model, variant.engine, variant.precision) == (model, engine, precision):
            return variant.validation_accuracy if variant.HasField("validation_accuracy") else None
    return None


def candidates(
    folder: Path, manifest: pb.Bundle, dense: Path, engines: Sequence[str], validation: Split | None
) -> list[Candidate]:
    """The baseline; both models in each precision of each engine that may run here, and the bundle's variants.

    Args:
        dense: graph of the dense model.
        engines: that must run; those that can, where none are named.
        validation: images to measure the accuracy of types other than float32 on, where they are at hand.
    """
    golden = read_golden_set(folder)

    def accuracy(model: str, engine: str, precision: Precision) -> Callable[[Run], float | None]:
        def checked(run: Run) -> float | None:
            if model == PRUNED and (failure := golden_failure(run(golden["images"]), golden, manifest, precision)):
                raise SessionError(failure)
            if precision != "f32" and validation is not None:
                return _accuracy(run, validation)
            return _recorded_accuracy(manifest, model, engine, precision)

        return checked

    def of_variant(variant: pb.Variant) -> Candidate:
        def checked(run: Run) -> float:
            logits_NK = run(golden["images"])["logits"]
            if failure := variant_failure(logits_NK, golden["logits"], variant.golden_tolerance):
                raise SessionError(failure)
            return variant.validation_accuracy

        precision: Precision = variant.precision  # type: ignore[assignment]  # of the few that the contract names
        macs = manifest.metrics.macs_pruned
        graph, engine = folder / variant.path, variant.engine
        return Candidate(PRUNED, graph, variant.path, engine, precision, macs, checked, required=engine in engines)

    def candidate(model: str, engine: str, precision: Precision, required: bool) -> Candidate:
        graph, path = (dense, "") if model == DENSE else (folder / CLASSIFY_GRAPH, CLASSIFY_GRAPH)
        macs = getattr(manifest.metrics, f"macs_{model}")
        return Candidate(
            model, graph, path, engine, precision, macs, accuracy(model, engine, precision), required=required
        )

    baseline = candidate(DENSE, ONNXRUNTIME, "f32", True)
    named = engines or [engine for engine in ENGINES if missing(engine) is None]
    others = [
        candidate(model, engine, precision, engine in engines and precision == "f32")
        for engine in named
        for precision in PRECISIONS[engine]
        for model in (DENSE, PRUNED)
        if precision != "bf16" or processor_has_bf16()
    ]
    variants = [of_variant(variant) for variant in accepted_variants(manifest) if variant.engine in named]
    return [baseline, *(other for other in others if other.title != baseline.title), *variants]


def measure(
    folder: Path,
    manifest: pb.Bundle,
    settings: BenchSettings,
    *,
    dense: CCT | None = None,
    engines: Sequence[str] = (),
    validation: Split | None = None,
    progress: Progress = silent,
) -> pb.Bench:
    """Time a bundle's graphs; the bundle is left as it is.

    Args:
        dense: the model that the bundle was made from; of its shape with random weights where it is not at hand.
        engines: that must run; those that can, where none are named.
        validation: as `candidates` takes it.

    Raises:
        BenchError: the shape of the dense model cannot be had from the manifest.
        SessionError: an engine that was named does not run here, or the baseline does not.
    """
    for engine in engines:
        if reason := missing(engine):
            raise SessionError(f"{engine} cannot run here: {reason}.")
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / "dense.onnx"
        write_dense_graph(manifest, random_dense_model(manifest) if dense is None else dense, graph)
        timed = candidates(folder, manifest, graph, engines, validation)
        return bench(timed, image_shape(manifest), settings, progress)


def bench_bundle(
    folder: Path, settings: BenchSettings, engines: Sequence[str] = (), progress: Progress = silent
) -> pb.Bench:
    """Time the graphs of a finished bundle.

    Raises:
        BundleError: no bundle, or a damaged one.
        BenchError, SessionError: as `measure`.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return measure(folder, manifest, settings, engines=engines, progress=progress)
