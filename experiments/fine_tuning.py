"""How much of what a mask costs the fine-tuning wins back, by its batch size and learning rate.

    exporter measure --run runs/cifar100
    python experiments/fine_tuning.py runs/cifar100 cifar100 --images 10000 --set training.bf16=true

Masks of `exporter compare` at one share, each trained for an epoch on the same images in batches of 256 and 64, at
several peak learning rates; one seed, validation images. Writes results/NAME/fine_tuning.json, which
`record_study.py` puts into docs/results.md.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SetOption, ThreadsOption
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.images import split_images
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.measurements import load_measurements, pruning_measurements
from headwise_exporter.stages.run import DENSE, DENSE_MEASUREMENTS, trained_dataset, trained_recipe
from headwise_exporter.studies.comparison import Row, compare
from headwise_exporter.studies.settings import ComparisonSettings
from headwise_exporter.studies.wording import percent
from headwise_exporter.training.settings import fine_tuning_settings
from records import FINE_TUNING, RESULTS, MeasuredRunArgument, NameArgument, ResultsOption, write_record
from rich import box
from rich.table import Table

MASK_BY = ("andc", "random", "magnitude", "wanda*overlap")
TRAININGS = ((256, 3e-4), (64, 3e-4), (64, 1e-3), (64, 3e-3))  # batch size, peak learning rate


def settings_tried(share: float, images: int | None, epochs: int) -> Iterator[ComparisonSettings]:
    """What is compared, for each batch size and learning rate."""
    for batch_size, learning_rate in TRAININGS:
        yield ComparisonSettings(
            (share,), MASK_BY, 1, epochs=epochs, images=images, batch_size=batch_size, learning_rate=learning_rate
        )


def as_record(settings: ComparisonSettings, row: Row) -> dict[str, Any]:
    """A row with its training, without the images that it gets wrong."""
    values = {key: value for key, value in asdict(row).items() if key != "wrong"}
    return {"batch_size": settings.batch_size, "learning_rate": settings.learning_rate, **values}


def table(rows: list[dict[str, Any]]) -> Table:
    """A line for each training of each masked model."""
    shown = Table("batch", "learning rate", "masks by", "at once %", "trained %", box=box.SIMPLE_HEAD)
    for row in rows:
        percents = (percent(row[moment]) for moment in ("masked_accuracy", "accuracy"))
        shown.add_row(str(row["batch_size"]), f"{row['learning_rate']:g}", row["mask_by"], *percents)
    return shown


def main(
    run: MeasuredRunArgument,
    name: NameArgument,
    share: Annotated[float, typer.Option(help="Of the connections.")] = 0.1,
    images: Annotated[int | None, typer.Option(min=1, help="Training images; all by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each fine-tuning.")] = 1,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Mask, fine-tune, compare and record."""
    set_threads(threads)
    data, model = trained_dataset(run, console.progress), load_model(run / DENSE)
    training = trained_recipe(run, settings or ()).training
    train_data, validation_data = split_images(data, "train"), split_images(data, "validation")
    measurements = pruning_measurements(model, load_measurements(run / DENSE_MEASUREMENTS).probes, train_data)
    seen = train_data.sample(images)
    rows: list[dict[str, Any]] = []
    with console.progress("compare", len(TRAININGS) * (1 + len(MASK_BY)), "models") as advance:
        for tried in settings_tried(share, images, epochs):
            fine_tuning = fine_tuning_settings(training, epochs, tried.learning_rate, tried.batch_size)
            compared = compare(
                model,
                measurements,
                seen,
                validation_data,
                tried,
                fine_tuning,
                on_row=lambda row: advance(1, f"{row.mask_by} {row.accuracy:.2%}"),
            )
            rows += [as_record(tried, row) for row in compared]
    console.out.print(table(rows))
    record = {
        "split": "validation",
        "images": len(validation_data),
        "share": share,
        "training_images": len(seen),
        "epochs": epochs,
        "optimizer": training.optimizer,
        "bf16": training.bf16,
        "rows": rows,
    }
    write_record(results / name / FINE_TUNING, record)


if __name__ == "__main__":
    typer.run(main)
