"""The page about a run, which goes into its bundle, and the figures that it has of the validation images.

    validate   dense, pruned, data set   -> validation.json (`studies.validation`)
    report     training, findings, and what there is of
               pruning, validation and studies -> report/ (`studies.report`)

Once both models are validated, the page is made without the data set. A stage whose inputs have not changed is skipped
(`stages.stage`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import split_images
from headwise_exporter.files import write_json
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.measurements import load_measurements
from headwise_exporter.progress import Progress, silent
from headwise_exporter.stages.run import (
    COMPARISON,
    CONTROLS,
    DENSE,
    DENSE_MEASUREMENTS,
    FINDINGS,
    PRUNED,
    PRUNING,
    REPORT,
    REPORT_RECORD,
    SUBSETS,
    TRAINING,
    VALIDATION,
    pruning_record,
    run_comparison,
    run_controls,
    run_findings,
    run_subsets,
    run_validation,
    training_record,
)
from headwise_exporter.stages.stage import Stage, carry_out
from headwise_exporter.training.evaluation import predict

VALIDATE_STAGE = Stage("validate", (DENSE, PRUNED), (VALIDATION,))
REPORT_STAGE = Stage(
    "report",
    (TRAINING, FINDINGS, CONTROLS, DENSE_MEASUREMENTS, PRUNING, VALIDATION, COMPARISON, SUBSETS),
    (REPORT, REPORT_RECORD),
)


def pictures_chosen(*runs: Path) -> bool:
    """Whether a page may show validation images, as was last said of the first of these runs of which it was.

    It may where nothing was said.
    """
    said = (bool(run_validation(run)["pictures"]) for run in runs if (run / VALIDATION).is_file())
    return next(said, True)


def validate_stage(run: Path, load: Callable[[], Dataset], progress: Progress, *, pictures: bool) -> bool:
    """Run the dense and the pruned model on the validation images; True when there was something to do.

    Args:
        load: gives the run's data set, of which only the validation images are looked at.
        pictures: whether thumbnails of errors are kept in the run's folder, for its page.

    Raises:
        CheckpointError: the run has no pruned model.
        DatasetError: the data set is not where it was.
        OutputError: the system refused the write.
    """
    # Slow to import, which `exporter --help` need not wait for.
    from headwise_exporter.studies import validation

    def produce() -> None:
        dataset = load()
        data = split_images(dataset, "validation")
        models = {name: load_model(run / path) for name, path in (("dense", DENSE), ("pruned", PRUNED))}
        with progress("validate", len(models) * len(data), "images") as advance:
            logits = {name: predict(model, data, on_images=advance).cpu() for name, model in models.items()}
        images_NYXC = dataset.validation.images_NYXC if pictures else None
        record = validation.as_record(models, logits, data.labels_N.cpu(), dataset.label_names, images_NYXC)
        write_json(run / VALIDATION, {"name": dataset.name, **record})

    return carry_out(run, VALIDATE_STAGE, {"pictures": pictures}, produce)


def _compared_labels(compared: dict[str, Any], load: Callable[[], Dataset]) -> Tensor:
    """Of the images that were compared, which comparisons of earlier releases have not recorded."""
    if "labels_N" in compared:
        return torch.tensor(compared["labels_N"])
    return split_images(load(), compared["split"]).labels_N.cpu()


def report_stage(
    run: Path, load: Callable[[], Dataset], progress: Progress = silent, *, pictures: bool | None = None
) -> tuple[Path, bool]:
    """The page about the run, and whether there was something to do; what was not tried it says was not.

    Args:
        load: gives the run's data set, where it is needed.
        pictures: whether the page may show validation images; as was last said of the run by default.

    Raises:
        RunError: the run was not measured.
        CheckpointError: its measurements are gone.
        DatasetError: the data set is needed, and is not where it was.
        OutputError: the system refused a write.
    """
    # Draws, and so is slow to import, which `exporter --help` need not wait for.
    from headwise_exporter.studies.report import make_record, write_report

    training, findings = training_record(run), run_findings(run)
    is_pruned = (run / PRUNED).is_file()
    if is_pruned:
        validate_stage(run, load, progress, pictures=pictures_chosen(run) if pictures is None else pictures)

    def produce() -> None:
        validated = run_validation(run) if is_pruned else None
        compared = run_comparison(run) if (run / COMPARISON).is_file() else None
        name, label_names = (validated["name"], validated["label_names"]) if validated else _names(load())
        record = make_record(
            name,
            training,
            findings,
            run_controls(run),
            validated,
            compared,
            run_subsets(run) if (run / SUBSETS).is_file() else None,
            pruning_record(run) if (run / PRUNING).is_file() else None,
            load_measurements(run / DENSE_MEASUREMENTS).nodes,
            label_names,
            _compared_labels(compared, load) if compared else None,
        )
        write_report((run / REPORT).parent, record, progress)

    return run / REPORT, carry_out(run, REPORT_STAGE, {}, produce)


def _names(dataset: Dataset) -> tuple[str, tuple[str, ...]]:
    return dataset.name, dataset.label_names
