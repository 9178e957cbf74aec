"""The last stage of a build: all that a run has come to, and its report -> a bundle with int8 variants.

The bundle is written under the output folder; it is made again where the run or the settings have changed.
"""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from headwise.bundle import MANIFEST, file_sha256
from headwise.v1.bundle_pb2 import Bundle

from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import split_images
from headwise_exporter.export.bundle import FLOAT_ALONE, next_version, write_bundle
from headwise_exporter.export.manifest import BundleContents, MeasuredModel
from headwise_exporter.export.settings import QuantizationSettings
from headwise_exporter.export.variants import versions
from headwise_exporter.files import write_json
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.measurements import load_measurements
from headwise_exporter.progress import Progress, silent
from headwise_exporter.stages.original import specialisation
from headwise_exporter.stages.report import pictures_chosen
from headwise_exporter.stages.run import (
    DENSE,
    DENSE_MEASUREMENTS,
    MASKED,
    PRUNED,
    PRUNED_MEASUREMENTS,
    PRUNING,
    REPORT,
    TRAINING,
    RunError,
    pruning_provenance,
    run_record,
    trained_recipe,
)
from headwise_exporter.stages.stage import Stage, is_current, write_stage_record

EXPORT_STAGE = Stage(
    "export",
    (DENSE, TRAINING, MASKED, PRUNED, PRUNING, DENSE_MEASUREMENTS, PRUNED_MEASUREMENTS, REPORT),
    ("export.json",),
)


def report_page(run: Path, manifest: Bundle) -> str:
    """The run's page, with what its bundle's manifest says."""
    # Draws, and so is slow to import, which `exporter --help` need not wait for.
    from headwise_exporter.studies.report import bundle_page

    return bundle_page((run / REPORT).parent, manifest)


def bundle_contents(run: Path, dataset: Dataset) -> BundleContents:
    """What the run's bundle is made from.

    Raises:
        CheckpointError, RunError: the run is not finished.
    """
    dense, masked, pruned = (load_model(run / name) for name in (DENSE, MASKED, PRUNED))
    pruning, kept = pruning_provenance(run)
    if not (run / REPORT).is_file():
        raise RunError(f"{run} has no report: expected {REPORT}. Run `exporter report` first.")
    return BundleContents(
        dense=MeasuredModel(dense, load_measurements(run / DENSE_MEASUREMENTS)),
        masked=masked,
        pruned=MeasuredModel(pruned, load_measurements(run / PRUNED_MEASUREMENTS)),
        pruning=pruning,
        kept=kept,
        dataset=dataset,
        test_data=split_images(dataset, "test"),
        seed=trained_recipe(run).training.seed,
        report=lambda manifest: report_page(run, manifest),
        specialisation=specialisation(run, split_images(dataset, "validation")),
        pictures=pictures_chosen(run),
    )


def exported_bundle(run: Path) -> Path:
    """The bundle that the run was last exported to.

    Raises:
        RunError: it was not exported, or the bundle is not there or another one by now.
    """
    exported = run_record(run / EXPORT_STAGE.writes[0], "bundle", "export")
    folder = Path(exported["folder"])
    if not (folder / MANIFEST).is_file() or file_sha256(folder / MANIFEST) != exported["manifest_sha256"]:
        raise RunError(
            f"expected the bundle that {run} was exported to in {folder}, found none or another. Run `exporter export` "
            f"first, or name a bundle."
        )
    return folder


def export_stage(
    run: Path,
    dataset: Dataset,
    repository: Path,
    name: str,
    progress: Progress = silent,
    quantization: QuantizationSettings = FLOAT_ALONE,
) -> tuple[Path, bool]:
    """Export a finished run as the next version of a model, unless the bundle that the run was last exported to under
    this name is what it would become again.

    int8 variants are made here and not in a stage of their own: of the very graph that the bundle has, on its golden
    set, and before anybody can see it.

    Args:
        quantization: of its int8 variants, of which it has none by default.

    Returns:
        The bundle's folder, and True when it was written now.

    Raises:
        CheckpointError, RunError: the run is not finished.
        ExportError, OutputError: as `write_bundle`.
    """
    record = run / EXPORT_STAGE.writes[0]
    makers = versions() if quantization.engines else {}
    settings = {"out": str(repository.resolve()), "name": name, "quantize": asdict(quantization), "makers": makers}
    if is_current(run, EXPORT_STAGE, settings):
        with suppress(RunError):
            return exported_bundle(run), False
    version = next_version(repository / name)
    folder = write_bundle(bundle_contents(run, dataset), repository, name, version, progress, quantization)
    write_json(record, {"folder": str(folder.resolve()), "manifest_sha256": file_sha256(folder / MANIFEST)})
    write_stage_record(run, EXPORT_STAGE, settings)
    return folder, True
