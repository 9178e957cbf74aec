"""What a run's folder contains: the names of its files, and what is read from them.

    dense.safetensors, masked.safetensors, pruned.safetensors              models
    original.safetensors                                                   that dense was made from (`stages.original`)
    dense.measurements.safetensors, pruned.measurements.safetensors        their probes and nodes
    training.json findings.json controls.json pruning.json validation.json
    comparison.json subsets.json                                           records
    report/                                                                the page and its figures

`stages.build`, `stages.study` and `stages.report` say which stage makes which.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from headwise.v1.bundle_pb2 import PruningProvenance
from pydantic import TypeAdapter

from headwise_exporter.data import datasets
from headwise_exporter.data.base import Dataset, DatasetSettings
from headwise_exporter.errors import ExporterError
from headwise_exporter.overrides import override
from headwise_exporter.progress import Progress, silent
from headwise_exporter.pruning.compaction import KeptUnits
from headwise_exporter.recipes import Recipe, from_record

DENSE, MASKED, PRUNED = "dense.safetensors", "masked.safetensors", "pruned.safetensors"
ORIGINAL = "original.safetensors"
DENSE_MEASUREMENTS, PRUNED_MEASUREMENTS = "dense.measurements.safetensors", "pruned.measurements.safetensors"
TRAINING, FINDINGS, CONTROLS, PRUNING = "training.json", "findings.json", "controls.json", "pruning.json"
COMPARISON, COMPARISON_SO_FAR = "comparison.json", "comparison.resume.json"
SUBSETS = "subsets.json"
VALIDATION = "validation.json"
REPORT, REPORT_RECORD = "report/report.html", "report/report.json"


class RunError(ExporterError):
    """A run's folder lacks what a stage needs."""


def run_record(path: Path, what: str, stage: str) -> dict[str, Any]:
    """A JSON file of a run's folder.

    Args:
        what: it says there is.
        stage: command that makes it.

    Raises:
        RunError: there is none, or it is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {what}: expected {path.name}. Run `exporter {stage}` first.") from None
    except ValueError as error:
        raise RunError(
            f"expected JSON in {path}, found a damaged file: {error}. Delete it and run `exporter {stage}` again."
        ) from error
    return record


def training_record(run: Path) -> dict[str, Any]:
    """What `train` recorded of itself.

    Raises:
        RunError: the run has no trained model.
    """
    return run_record(run / TRAINING, "trained model", "train")


def trained_dataset(run: Path, progress: Progress = silent) -> Dataset:
    """The data set that the run's model was trained on.

    Raises:
        RunError: the run has no trained model.
        DatasetError: the data set is not where it was.
    """
    settings = TypeAdapter(DatasetSettings).validate_python(training_record(run)["dataset"])
    return datasets.load(settings, progress)


def trained_recipe(run: Path, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe that the run's model was trained by, with other settings for what is done next (`NAME=VALUE`).

    Raises:
        RunError: the run has no trained model.
        RecipeError, SettingError: it was trained by another release, or there is no such setting.
    """
    return override(from_record(training_record(run)["recipe"]), assignments)


def run_findings(run: Path) -> dict[str, Any]:
    """What `measure` recorded of nodes and heads.

    Raises:
        RunError: the run was not measured.
    """
    return run_record(run / FINDINGS, "measured model", "measure")


def run_controls(run: Path) -> dict[str, Any] | None:
    """The same of the controls (`nodes.controls`); None where none were measured, or on other images.

    Raises:
        RunError: the model was not measured.
    """
    if not (run / CONTROLS).is_file():
        return None
    findings, controls = run_findings(run), run_record(run / CONTROLS, "measured controls", "measure --controls")
    of = ("split", "images", "threshold", "draws")
    same = all(each[key] == findings[key] for each in controls.values() for key in of)
    return controls if same else None


def run_comparison(run: Path) -> dict[str, Any]:
    """What `compare` recorded.

    Raises:
        RunError: nothing was compared.
    """
    return run_record(run / COMPARISON, "comparison", "compare")


def run_subsets(run: Path) -> dict[str, Any]:
    """What `subsets` recorded.

    Raises:
        RunError: nothing was removed for subsets.
    """
    return run_record(run / SUBSETS, "removal for subsets", "subsets")


def run_validation(run: Path) -> dict[str, Any]:
    """What the dense and the pruned model gave for the validation images.

    Raises:
        RunError: they were not run on them.
    """
    return run_record(run / VALIDATION, "validated model", "report")


def pruning_record(run: Path) -> dict[str, Any]:
    """What `prune` recorded: its settings and its provenance, as plain values.

    Raises:
        RunError: the run has no pruned model.
    """
    record = run_record(run / PRUNING, "pruned model", "prune")
    return {**record["settings"], **record["provenance"]}


def pruning_provenance(run: Path) -> tuple[PruningProvenance, KeptUnits]:
    """How the run's pruned model came about, and what it keeps.

    Raises:
        RunError: the run has no pruned model.
    """
    record = run_record(run / PRUNING, "pruned model", "prune")
    kept = TypeAdapter(KeptUnits).validate_python(record["kept"])
    return json_format.ParseDict(record["provenance"], PruningProvenance()), kept
