"""Write a run as a bundle, and verify one.

The format is declared in `proto/headwise/v1/bundle.proto`; `headwise.bundle` reads it. A bundle is written to a
temporary folder, checked there, and renamed: what can be seen is whole and has passed its own golden set.

The golden set is validation images with every output of `explain.onnx` as torch computes it, so that any engine on any
machine can be checked without torch and without the data set.
"""

import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headwise.bundle import (
    FORMAT_VERSION,
    GOLDEN_SET,
    MANIFEST,
    BundleError,
    check_files,
    file_sha256,
    read_manifest,
    write_manifest,
)
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray

from headwise_exporter.data.base import Dataset
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.graphs import check_graphs, export_graphs, run_graph
from headwise_exporter.export.manifest import head_cards, metrics
from headwise_exporter.files import atomic_folder, write_json
from headwise_exporter.model.cct import CCT, EncoderShape
from headwise_exporter.model.checkpoints import Measurements, load_measurements, load_model
from headwise_exporter.nodes.snp import Probe
from headwise_exporter.stages.build import (
    DENSE,
    DENSE_MEASUREMENTS,
    MASKED,
    PRUNED,
    PRUNED_MEASUREMENTS,
    PRUNING,
    REPORT,
    TRAINING,
    RunError,
    pruning_record,
    split_images,
    trained_recipe,
)
from headwise_exporter.stages.stage import Stage, is_current, write_stage_record

GOLDEN_IMAGES = 32
GOLDEN_TOLERANCE = 1e-4  # absolute, float32
GOLDEN_TOLERANCE_REDUCED = 0.05  # of the golden logits' range
COMPLETENESS_TOLERANCE = 1e-4
EXPORT_STAGE = Stage(
    "export",
    (DENSE, TRAINING, MASKED, PRUNED, PRUNING, DENSE_MEASUREMENTS, PRUNED_MEASUREMENTS, REPORT),
    ("export.json",),
)


@dataclass(frozen=True)
class RunModels:
    """The models and measurements of a finished run."""

    dense: CCT
    masked: CCT
    pruned: CCT
    dense_measurements: Measurements
    pruned_measurements: Measurements

    @classmethod
    def load(cls, run: Path) -> "RunModels":
        """Read them from the run's folder.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        dense, masked, pruned = (load_model(run / name) for name in (DENSE, MASKED, PRUNED))
        dense_measurements, pruned_measurements = (
            load_measurements(run / name) for name in (DENSE_MEASUREMENTS, PRUNED_MEASUREMENTS)
        )
        return cls(dense, masked, pruned, dense_measurements, pruned_measurements)


def head_probes(measurements: Measurements, model: CCT) -> list[Probe]:
    """The probe of each encoder's heads, in the order of the forward pass."""
    return [measurements.probes[f"encoders.{index}.heads"] for index in range(len(model.config.encoders))]


def golden_set(split: ExactSplit, dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Inputs spread over the validation images, and every output that they must give."""
    images_NYXC = dataset.validation.images_NYXC
    chosen = np.linspace(0, len(images_NYXC) - 1, min(GOLDEN_IMAGES, len(images_NYXC))).round().astype(int)
    with torch.no_grad():
        outputs = split(torch.from_numpy(images_NYXC[chosen]))
    return {"images": images_NYXC[chosen]} | {name: value.numpy() for name, value in outputs.items()}


def _encoder_shapes(model: CCT) -> list[pb.EncoderShape]:
    def message(shape: EncoderShape) -> pb.EncoderShape:
        return pb.EncoderShape(**asdict(shape))

    return [message(shape) for shape in model.config.encoders]


def _image_input(dataset: Dataset) -> pb.ImageInput:
    _, height, width, channels = dataset.train.images_NYXC.shape
    return pb.ImageInput(
        height=height,
        width=width,
        channels=channels,
        color_mode=pb.COLOR_MODE_GRAYSCALE if channels == 1 else pb.COLOR_MODE_RGB,
        resampling=pb.RESAMPLING_BILINEAR,
        framing=pb.FRAMING_CENTER,
        mean=dataset.mean,
        std=dataset.std,
    )


def _manifest(
    name: str, model_version: int, models: RunModels, dataset: Dataset, run: Path, golden: Mapping[str, NDArray[Any]]
) -> pb.Bundle:
    pruning, kept = pruning_record(run)
    by_name = {"dense": models.dense, "masked": models.masked, "pruned": models.pruned}
    measured = {"dense": models.dense_measurements, "pruned": models.pruned_measurements}
    libraries = ("headwise", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    return pb.Bundle(
        format_version=FORMAT_VERSION,
        name=name,
        version=str(model_version),
        labels=dataset.label_names,
        input=_image_input(dataset),
        architecture=pb.Architecture(
            family="cct",
            tokens=models.dense.config.tokens,
            width=models.dense.config.width,
            dense_encoders=_encoder_shapes(models.dense),
            pruned_encoders=_encoder_shapes(models.pruned),
        ),
        data=pb.DataProvenance(
            dataset=dataset.name,
            protocol=dataset.protocol,
            train_images=len(dataset.train),
            validation_images=len(dataset.validation),
            test_images=len(dataset.test),
            seed=trained_recipe(run).training.seed,
        ),
        metrics=metrics(by_name, measured, split_images(dataset, "test"), pruning),
        pruning=pruning,
        head_cards=head_cards(by_name, measured, kept, dataset.label_names, pruning.threshold),
        completeness_tolerance=COMPLETENESS_TOLERANCE,
        golden_tolerance=GOLDEN_TOLERANCE,
        golden_tolerance_reduced=GOLDEN_TOLERANCE_REDUCED * float(np.ptp(golden["logits"])),
        producers={library: version(library) for library in libraries},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def list_files(folder: Path) -> list[pb.File]:
    """Every file under the folder with its size and sha256, by path."""
    return [
        pb.File(path=path.relative_to(folder).as_posix(), sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def write_bundle(run: Path, dataset: Dataset, repository: Path, name: str, model_version: int) -> Path:
    """Export a finished run as `repository/name/version`, checked against torch before it can be seen.

    Raises:
        CheckpointError, RunError: the run is not finished.
        ExportError: a graph does not compute what the model does.
        OutputError: the bundle cannot be written.
    """
    models = RunModels.load(run)
    if not (run / REPORT).is_file():
        raise RunError(f"{run} has no report: expected {REPORT}. Run `exporter report` first.")
    probes = head_probes(models.pruned_measurements, models.pruned)
    golden = golden_set(ExactSplit(models.pruned, probes, dataset.mean, dataset.std).eval(), dataset)
    manifest = _manifest(name, model_version, models, dataset, run, golden)
    folder = repository / name / str(model_version)
    with atomic_folder(folder) as temporary:
        export_graphs(models.pruned, probes, dataset.mean, dataset.std, temporary)
        check_graphs(temporary, golden, GOLDEN_TOLERANCE)
        np.savez(temporary / GOLDEN_SET, allow_pickle=False, **golden)
        shutil.copyfile(run / REPORT, temporary / Path(REPORT).name)
        manifest.files.extend(list_files(temporary))
        write_manifest(manifest, temporary)
    return folder


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at."""

    name: str
    passed: bool
    found: str


def _next_version(folder: Path) -> int:
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def export_stage(run: Path, dataset: Dataset, repository: Path, name: str) -> tuple[Path, bool]:
    """Write a bundle, unless the newest thing the run was exported to under this name is what it would become again.

    Returns:
        The bundle's folder, and True when it was written now.

    Raises:
        As `write_bundle`.
    """
    record = run / EXPORT_STAGE.writes[0]
    settings = {"out": str(repository.resolve()), "name": name}
    if is_current(run, EXPORT_STAGE, settings):
        exported = json.loads(record.read_text("utf-8"))
        folder = Path(exported["folder"])
        if (folder / MANIFEST).is_file() and file_sha256(folder / MANIFEST) == exported["manifest_sha256"]:
            return folder, False
    folder = write_bundle(run, dataset, repository, name, _next_version(repository / name))
    write_json(record, {"folder": str(folder.resolve()), "manifest_sha256": file_sha256(folder / MANIFEST)})
    write_stage_record(run, EXPORT_STAGE, settings)
    return folder, True


def completeness_residual(outputs: Mapping[str, NDArray[Any]]) -> float:
    """Largest |sum of all parts - logit| over images and labels, summed in float64."""
    parts = sum(outputs[name].sum(axis=1, dtype=np.float64) for name in ("heads", "feed_forwards"))
    total = parts + outputs["embedding"].astype(np.float64) + outputs["biases"]
    return float(np.abs(total - outputs["logits"]).max())


def _check_golden(folder: Path, manifest: pb.Bundle) -> list[Check]:
    with np.load(folder / GOLDEN_SET, allow_pickle=False) as file:
        golden = dict(file)
    checks = []
    explained: dict[str, NDArray[Any]] = {}
    for graph in ("classify", "explain"):
        outputs = run_graph(folder / f"{graph}.onnx", golden["images"])
        worst = max(float(np.abs(value - golden[name]).max()) for name, value in outputs.items())
        passed = worst <= manifest.golden_tolerance
        found = f"largest difference {worst:.2e}, tolerance {manifest.golden_tolerance:.0e}"
        checks.append(Check(f"golden set, {graph}.onnx", passed, found))
        explained = outputs
    residual = completeness_residual(explained)
    found = f"largest residual {residual:.2e}, tolerance {manifest.completeness_tolerance:.0e}"
    return [*checks, Check("completeness of the split", residual <= manifest.completeness_tolerance, found)]


def verify(folder: Path) -> list[Check]:
    """Check a bundle's manifest, files, golden set and completeness; every check that could be made, passed or not."""
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
    return checks + _check_golden(folder, manifest)
