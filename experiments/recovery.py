"""How much of what a removal costs the fine-tuning wins back, by what it learns from and how fast.

    exporter measure --run runs/cifar100
    python experiments/recovery.py runs/cifar100 cifar100 --epochs 2 --set training.bf16=true

The same units are removed from the dense model each time, by one criterion, within the recipe's budget; then the small
model is trained from the labels, from the dense model's logits, or from both, at several peak learning rates; one seed,
validation images. Writes results/NAME/recovery.json, which `record_study.py` puts into docs/results.md.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SetOption, ThreadsOption
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.model.config import count_macs
from headwise_exporter.nodes.measurements import load_measurements, pruning_measurements
from headwise_exporter.pruning import criteria
from headwise_exporter.pruning.compaction import choose
from headwise_exporter.pruning.removal import remove_units, unit_statistics
from headwise_exporter.stages.run import DENSE, DENSE_MEASUREMENTS, trained_dataset, trained_recipe
from headwise_exporter.studies.wording import percent
from headwise_exporter.training.distillation import DistillationSettings, teacher_of
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings, fine_tuning_settings
from records import RECOVERY, RESULTS, MeasuredRunArgument, NameArgument, ResultsOption, write_record
from rich import box
from rich.table import Table

LABELS, LOGITS, BOTH = (DistillationSettings(label_share=share) for share in (1.0, 0.0, 0.5))
TRAININGS = (  # what is learnt from, and the peak learning rate
    (LABELS, 3e-4),
    (LABELS, 1e-3),
    (LOGITS, 3e-4),
    (LOGITS, 1e-3),
    (LOGITS, 3e-3),
    (BOTH, 1e-3),
)


def recoveries(
    dense: CCT,
    small: CCT,
    train_data: LabelledImages,
    validation_data: LabelledImages,
    training: TrainingSettings,
    epochs: int,
) -> Iterator[dict[str, Any]]:
    """What each training of the small model came to."""
    weights = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    for distillation, learning_rate in TRAININGS:
        small.load_state_dict(weights)
        settings = fine_tuning_settings(training, epochs, learning_rate)
        train(small, train_data, settings, teacher=teacher_of(dense, distillation))
        evaluation = evaluate(small, validation_data)
        yield {
            **asdict(distillation),
            "learning_rate": learning_rate,
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss,
        }


def table(record: dict[str, Any]) -> Table:
    """A line for each training."""
    shown = Table("from labels %", "learning rate", "accuracy %", "loss", box=box.SIMPLE_HEAD)
    shown.title = f"dense {percent(record['dense_accuracy'])} %, at once {percent(record['accuracy_at_once'])} %"
    for row in record["rows"]:
        share, loss = f"{100 * row['label_share']:g}", f"{row['loss']:.3f}"
        shown.add_row(share, f"{row['learning_rate']:g}", percent(row["accuracy"]), loss)
    return shown


def main(
    run: MeasuredRunArgument,
    name: NameArgument,
    criterion: Annotated[str, typer.Option(help="That chooses the units.")] = "taylor",
    images: Annotated[int | None, typer.Option(min=1, help="Training images; all by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each fine-tuning.")] = 2,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Remove, fine-tune and record."""
    set_threads(threads)
    data, dense = trained_dataset(run, console.progress), load_model(run / DENSE)
    recipe = trained_recipe(run, settings or ())
    train_data, validation_data = split_images(data, "train"), split_images(data, "validation")
    measurements = pruning_measurements(dense, load_measurements(run / DENSE_MEASUREMENTS).probes, train_data)
    seen, pruning = train_data.sample(images), recipe.prune
    with console.progress("recovery", 1 + len(TRAININGS), "models") as advance:
        statistics = unit_statistics(dense, seen)
        scores = criteria.scores(dense, statistics.moments, measurements.nodes, pruning.threshold, criterion)
        small = remove_units(dense, choose(dense, scores, pruning.budget.config(dense.config)), statistics)
        at_once = evaluate(small, validation_data).accuracy
        advance(1, f"at once {at_once:.2%}")
        rows = []
        for row in recoveries(dense, small, seen, validation_data, recipe.training, epochs):
            advance(1, f"{row['accuracy']:.2%}")
            rows.append(row)
    record = {
        "split": "validation",
        "images": len(validation_data),
        "criterion": criterion,
        "budget": asdict(pruning.budget),
        "dense": {"parameters": count_parameters(dense), "macs": count_macs(dense.config)},
        "pruned": {"parameters": count_parameters(small), "macs": count_macs(small.config)},
        "dense_accuracy": evaluate(dense, validation_data).accuracy,
        "accuracy_at_once": at_once,
        "training_images": len(seen),
        "epochs": epochs,
        "batch_size": recipe.training.batch_size,
        "optimizer": recipe.training.optimizer,
        "bf16": recipe.training.bf16,
        "rows": rows,
    }
    console.out.print(table(record))
    write_record(results / name / RECOVERY, record)


if __name__ == "__main__":
    typer.run(main)
