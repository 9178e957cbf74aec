"""Write a bundle, and verify one.

The format is declared in `proto/headwise/v1/bundle.proto`; `headwise.bundle` reads it. A bundle is written to a
temporary folder, checked there, and renamed: what can be seen is whole and has passed its own golden set.

int8 variants are made from the very graph that the bundle has, between its checks and the rename (`export.variants`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
from headwise.graphs import (
    EXPLAIN_GRAPH,
    INPUTS,
    MAPS_GRAPH,
    completeness_residuals,
    golden_differences,
    graphs_of,
    map_residuals,
)
from headwise.v1 import bundle_pb2 as pb

from headwise_exporter.bench.variants import BenchSettings
from headwise_exporter.data.images import split_images
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.golden import golden_set
from headwise_exporter.export.graphs import check_graphs, export_graphs, run_on_golden_set
from headwise_exporter.export.head_samples import candidates, head_samples
from headwise_exporter.export.manifest import EVALUATED_MODELS, BundleContents, make_manifest
from headwise_exporter.export.quantization import QuantizationError
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.silencing import SilencedHeads, mean_heads
from headwise_exporter.export.speed import AT_EXPORT, measure
from headwise_exporter.export.variants import check_variant, make_variants
from headwise_exporter.files import atomic_folder
from headwise_exporter.progress import Advance, Progress, silent

REPORT = "report.html"
FLOAT_ALONE = QuantizationSettings(engines=())


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
    silenced = SilencedHeads(split.normalise, split.model, mean_heads(split.model, split_images(dataset, "train")))
    golden = golden_set(split, silenced.eval(), dataset)
    with progress("evaluate on test images", EVALUATED_MODELS * len(contents.test_data), "images") as advance:
        manifest = make_manifest(name, model_version, contents, golden, advance)
    folder = repository / name / str(model_version)
    with atomic_folder(folder) as temporary:
        with progress("export", len(INPUTS), "graphs") as advance:
            export_graphs(split, silenced, temporary, advance)
            advance(0, "checking the golden set")
            check_graphs(temporary, golden, manifest.golden_tolerance)
        manifest.variants.extend(make_variants(temporary, golden, dataset, quantization, progress))
        if contents.pictures:
            _write_head_samples(split, contents, manifest, temporary, progress)
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
        (temporary / REPORT).write_text(contents.report(manifest), "utf-8")
        manifest.files.extend(list_files(temporary))
        write_manifest(manifest, temporary)
    return folder


def _write_head_samples(
    split: ExactSplit, contents: BundleContents, manifest: pb.Bundle, folder: Path, progress: Progress
) -> None:
    dataset = contents.dataset
    with progress("pictures for the heads", len(candidates(len(dataset.validation.labels_N))), "images") as advance:
        samples = head_samples(split, dataset.validation, dataset.label_names, advance)
    if samples is not None:
        described, content = samples
        manifest.head_samples.CopyFrom(described)
        (folder / described.path).write_bytes(content)


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at."""

    name: str
    passed: bool
    detail: str


RESIDUALS = {
    EXPLAIN_GRAPH: ("completeness of the split", completeness_residuals),
    MAPS_GRAPH: ("completeness of the maps", map_residuals),
}


def _check_golden(folder: Path, manifest: pb.Bundle, advance: Advance) -> list[Check]:
    golden = read_golden_set(folder)
    checks, sums = [], []
    for graph in graphs_of(manifest):
        advance(0, f"golden set, {graph}")
        outputs = run_on_golden_set(folder, graph, golden)
        worst = float(np.max([*golden_differences(outputs, golden).values()]))
        passed = worst <= manifest.golden_tolerance
        difference = f"largest difference {worst:.2e}, tolerance {manifest.golden_tolerance:.0e}"
        checks.append(Check(f"golden set, {graph}", passed, difference))
        if graph in RESIDUALS:
            name, residuals = RESIDUALS[graph]
            residual, tolerance = float(residuals(outputs).max()), manifest.completeness_tolerance
            difference = f"largest residual {residual:.2e}, tolerance {tolerance:.0e}"
            sums.append(Check(name, residual <= tolerance, difference))
        advance()
    return checks + sums


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
    with progress("verify", len(graphs_of(manifest)) + len(accepted_variants(manifest)), "graphs") as advance:
        return [*checks, *_check_golden(folder, manifest, advance), *_check_variants(folder, manifest, advance)]
