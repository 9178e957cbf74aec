"""Write a bundle, and verify one.

The format is declared in `proto/headwise/v1/bundle.proto`; `headwise.bundle` reads it. A bundle is written to a
temporary folder, checked there, and renamed: what can be seen is whole and has passed its own golden set.

int8 variants are made from the very graph that the bundle has, between its checks and the rename (`export.variants`).

The golden set is validation images with every output of `explain.onnx` as torch computes it, so that any engine on any
machine can be checked without torch and without the data set.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headwise.bundle import (
    GOLDEN_SET,
    BundleError,
    accepted_variants,
    check_files,
    file_sha256,
    read_golden_set,
    read_manifest,
    write_manifest,
)
from headwise.graphs import CLASSIFY_GRAPH, EXPLAIN_GRAPH, completeness_residuals, golden_differences
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray

from headwise_exporter.bench.variants import BenchSettings
from headwise_exporter.data.base import Dataset
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.graphs import check_graphs, export_graphs, run_graph
from headwise_exporter.export.manifest import EVALUATED_MODELS, BundleContents, make_manifest
from headwise_exporter.export.quantization import QuantizationError
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.speed import AT_EXPORT, measure
from headwise_exporter.export.variants import check_variant, make_variants
from headwise_exporter.files import atomic_folder
from headwise_exporter.progress import Advance, Progress, silent

GRAPHS = (CLASSIFY_GRAPH, EXPLAIN_GRAPH)
REPORT = "report.html"
GOLDEN_IMAGES = 32
FLOAT_ALONE = QuantizationSettings(engines=())


def golden_set(split: ExactSplit, dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Inputs spread over the validation images, and every output that they must give."""
    images_NYXC = dataset.validation.images_NYXC
    chosen = np.linspace(0, len(images_NYXC) - 1, min(GOLDEN_IMAGES, len(images_NYXC))).round().astype(int)
    with torch.no_grad():
        outputs = split(torch.from_numpy(images_NYXC[chosen]))
    return {"images": images_NYXC[chosen]} | {name: value.numpy() for name, value in outputs.items()}


def list_files(folder: Path) -> list[pb.File]:
    """Every file under the folder with its size and sha256, by path."""
    return [
        pb.File(path=path.relative_to(folder).as_posix(), sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def next_version(folder: Path) -> int:
    """One more than the newest version in a model's folder; 1 where there is none."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def write_bundle(
    contents: BundleContents,
    repository: Path,
    name: str,
    model_version: int,
    progress: Progress = silent,
    quantization: QuantizationSettings = FLOAT_ALONE,
    timed: BenchSettings | None = AT_EXPORT,
) -> Path:
    """Write `repository/name/version`, checked against torch before it can be seen; returns the folder.

    Args:
        quantization: of its int8 variants, of which it has none by default.
        timed: how its graphs are timed for the manifest and the report; None for not at all.

    Raises:
        ExportError: a graph does not compute what the model does.
        SessionError: the dense model does not run on ONNX Runtime.
        OutputError: the bundle cannot be written.
    """
    pruned, dataset = contents.pruned, contents.dataset
    split = ExactSplit(pruned.model, pruned.head_probes(), dataset.mean, dataset.std).eval()
    golden = golden_set(split, dataset)
    with progress("evaluate on test images", EVALUATED_MODELS * len(contents.test_data), "images") as advance:
        manifest = make_manifest(name, model_version, contents, golden, advance)
    folder = repository / name / str(model_version)
    with atomic_folder(folder) as temporary:
        with progress("export", len(GRAPHS), "graphs") as advance:
            export_graphs(split, temporary, advance)
            advance(0, "checking the golden set")
            check_graphs(temporary, golden, manifest.golden_tolerance)
        manifest.variants.extend(make_variants(temporary, golden, dataset, quantization, progress))
        np.savez(temporary / GOLDEN_SET, allow_pickle=False, **golden)
        if timed is not None:
            manifest.bench.CopyFrom(
                measure(
                    temporary,
                    manifest,
                    timed,
                    dense=contents.dense.model,
                    validation=dataset.validation,
                    progress=progress,
                )
            )
        report = contents.report(manifest.bench if manifest.HasField("bench") else None)
        (temporary / REPORT).write_text(report, "utf-8")
        manifest.files.extend(list_files(temporary))
        write_manifest(manifest, temporary)
    return folder


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at."""

    name: str
    passed: bool
    detail: str


def _check_golden(folder: Path, manifest: pb.Bundle, advance: Advance) -> list[Check]:
    golden = read_golden_set(folder)
    checks = []
    outputs: dict[str, NDArray[Any]] = {}
    for graph in GRAPHS:
        advance(0, f"golden set, {graph}")
        outputs = run_graph(folder / graph, golden["images"])
        worst = float(np.max([*golden_differences(outputs, golden).values()]))
        passed = worst <= manifest.golden_tolerance
        difference = f"largest difference {worst:.2e}, tolerance {manifest.golden_tolerance:.0e}"
        checks.append(Check(f"golden set, {graph}", passed, difference))
        advance()
    residual = float(completeness_residuals(outputs).max())  # of explain.onnx, the last
    tolerance = manifest.completeness_tolerance
    difference = f"largest residual {residual:.2e}, tolerance {tolerance:.0e}"
    return [*checks, Check("completeness of the split", residual <= tolerance, difference)]


def _check_variants(folder: Path, manifest: pb.Bundle, advance: Advance) -> list[Check]:
    """The golden set on each variant's own engine; one whose engine is not installed has not passed."""
    golden, checks = read_golden_set(folder), []
    for variant in accepted_variants(manifest):
        advance(0, f"golden set, {variant.path}")
        try:
            failure = check_variant(folder, variant, golden)
        except QuantizationError as error:
            failure = f"cannot be checked here: {error}"
        passed = f"no difference above {variant.golden_tolerance:.2g}; first labels stay where float32 is sure"
        checks.append(Check(f"golden set, {variant.path}", failure is None, failure or passed))
        advance()
    return checks


def verify(folder: Path, progress: Progress = silent) -> list[Check]:
    """Check a bundle's manifest, files, golden set, completeness and variants; every check, passed or not."""
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        return [Check("manifest", False, str(error))]
    checks = [Check("manifest", True, f"{manifest.name} version {manifest.version}, format {manifest.format_version}")]
    try:
        check_files(folder, manifest)
    except BundleError as error:
        return [*checks, Check("files", False, str(error))]
    checks.append(Check("files", True, f"{len(manifest.files)} files have the sha256 that the manifest states"))
    with progress("verify", len(GRAPHS) + len(accepted_variants(manifest)), "graphs") as advance:
        return [*checks, *_check_golden(folder, manifest, advance), *_check_variants(folder, manifest, advance)]
