"""What is tried on a trained and measured run for the sake of its reader.

    compare   dense, its measurements -> comparison.json: ANDC against its controls (`studies.comparison`)
    subsets   dense, its measurements -> subsets.json: hidden nodes that few labels need (`studies.subsets`)

A study whose inputs have not changed is skipped (`stages.stage`).
"""

import json
from dataclasses import asdict
from pathlib import Path

from headwise.bundle import file_sha256

from headwise_exporter.data.base import Dataset, SplitName
from headwise_exporter.data.images import split_images
from headwise_exporter.files import write_json
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.measurements import load_measurements, pruning_measurements
from headwise_exporter.progress import Progress
from headwise_exporter.stages.run import (
    COMPARISON,
    COMPARISON_SO_FAR,
    DENSE,
    DENSE_MEASUREMENTS,
    SUBSETS,
    TRAINING,
)
from headwise_exporter.stages.stage import Stage, carry_out, plain
from headwise_exporter.studies import comparison, subsets
from headwise_exporter.studies.settings import ComparisonSettings, SubsetSettings
from headwise_exporter.training.settings import TrainingSettings, fine_tuning_settings

COMPARE_STAGE = Stage("compare", (DENSE, TRAINING, DENSE_MEASUREMENTS), (COMPARISON,))
SUBSETS_STAGE = Stage("subsets", (DENSE, TRAINING, DENSE_MEASUREMENTS), (SUBSETS,))


def compare_stage(
    run: Path,
    settings: ComparisonSettings,
    training: TrainingSettings,
    split: SplitName,
    dataset: Dataset,
    progress: Progress,
) -> bool:
    """ANDC against its controls on one split; resumes after the last row; True when there was something to do.

    Args:
        training: of the dense model, from which fine-tuning takes what it does not set itself.

    Raises:
        CheckpointError: the run was not measured.
        ValueError: unknown rule.
    """
    fine_tuning = fine_tuning_settings(training, settings.epochs, settings.learning_rate, settings.batch_size)
    inputs = {"split": split, "training": asdict(fine_tuning), **asdict(settings)}
    identity = {**inputs, **{path: file_sha256(run / path) for path in (DENSE, DENSE_MEASUREMENTS)}}

    def produce() -> None:
        so_far = run / COMPARISON_SO_FAR
        saved = json.loads(so_far.read_text("utf-8")) if so_far.is_file() else {}
        rows = [comparison.row_from(row) for row in saved["rows"]] if saved.get("identity") == plain(identity) else []
        with progress("compare", len(list(comparison.cases(settings))), "models") as advance:
            advance(len(rows), resumed=True)

            def keep(row: comparison.Row) -> None:
                rows.append(row)
                write_json(so_far, {"identity": identity, "rows": [asdict(row) for row in rows]})
                advance(1, f"{row.mask_by} {row.share:.0%}: {row.accuracy:.2%}")

            model, train_data = load_model(run / DENSE), split_images(dataset, "train")
            data = split_images(dataset, split)
            compared = comparison.compare(
                model,
                pruning_measurements(model, load_measurements(run / DENSE_MEASUREMENTS).probes, train_data),
                train_data.sample(settings.images),
                data,
                settings,
                fine_tuning,
                tuple(rows),
                keep,
            )
        record = comparison.as_record(settings, compared)
        made_of = {"split": split, "labels_N": data.labels_N.tolist(), "training": asdict(fine_tuning)}
        write_json(run / COMPARISON, {**made_of, **record})
        so_far.unlink(missing_ok=True)

    return carry_out(run, COMPARE_STAGE, inputs, produce)


def subsets_stage(run: Path, settings: SubsetSettings, split: SplitName, dataset: Dataset, progress: Progress) -> bool:
    """Removal of hidden nodes for random subsets of the labels; True when there was something to do.

    Raises:
        RunError: the run has no trained model.
        CheckpointError: the run was not measured.
        ValueError: subsets of more labels than there are.
    """

    def produce() -> None:
        with progress("subsets", settings.subsets, "subsets") as advance:
            model, train_data = load_model(run / DENSE), split_images(dataset, "train")
            rows = subsets.remove_for_subsets(
                model,
                pruning_measurements(model, load_measurements(run / DENSE_MEASUREMENTS).probes, train_data),
                train_data,
                split_images(dataset, split),
                settings,
                lambda note: advance(1, note),
            )
        write_json(run / SUBSETS, {"split": split, **subsets.as_record(settings, rows)})

    return carry_out(run, SUBSETS_STAGE, {"split": split, **asdict(settings)}, produce)
