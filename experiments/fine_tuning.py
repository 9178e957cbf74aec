"""How much of what a mask costs the fine-tuning wins back, by its batch size and learning rate.

    exporter measure --run runs/cifar100
    python benchmarks/fine_tuning.py runs/cifar100 cifar100 --images 10000 --set training.bf16=true

Masks of `exporter compare` at one share, each trained for an epoch on the same images in batches of 256 and 64, at
several peak learning rates; one seed, validation images. Writes results/NAME/fine_tuning.json, which
`record_study.py` puts into docs/results.md.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SetOption
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.files import write_json
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.stages.build import DENSE, pruning_measurements, split_images, trained_dataset, trained_recipe
from headwise_exporter.studies.comparison import ComparisonSettings, compare
from headwise_exporter.training.loop import fine_tuning_settings
from rich import box
from rich.table import Table
from timing import machine

ROOT = Path(__file__).resolve().parent.parent
NAME = "fine_tuning.json"
RULES = ("andc", "random", "magnitude", "wanda*overlap")
TRAININGS = ((256, 3e-4), (64, 3e-4), (64, 1e-3), (64, 3e-3))  # batch size, peak learning rate


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a measured run.")],
    name: Annotated[str, typer.Argument(help="Of the folder under results/.")],
    share: Annotated[float, typer.Option(help="Of the connections.")] = 0.1,
    images: Annotated[int | None, typer.Option(min=1, help="Training images; all by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each fine-tuning.")] = 1,
    settings: SetOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Mask, train, compare and record."""
    set_threads(threads)
    data, recipe, model = (
        trained_dataset(run, console.progress),
        trained_recipe(run, settings or ()),
        load_model(run / DENSE),
    )
    measurements = pruning_measurements(run, model, data)
    train, judged = split_images(data, "train").sample(images), split_images(data, "validation")
    table = Table("batch", "learning rate", "by", "at once %", "trained %", box=box.SIMPLE_HEAD)
    rows: list[dict[str, Any]] = []
    with console.progress("compare", len(TRAININGS) * (1 + len(RULES))) as advance:
        for batch_size, rate in TRAININGS:
            asked = ComparisonSettings((share,), RULES, 1, "both", epochs, images, batch_size, rate)
            short = fine_tuning_settings(recipe.training, epochs, rate, batch_size)
            found = compare(
                model,
                measurements,
                train,
                judged,
                asked,
                short,
                on_row=lambda row: advance(f"{row.rule} {row.accuracy:.2%}"),
            )
            for row in found:
                told = {key: value for key, value in asdict(row).items() if key != "wrong"}
                rows.append({"batch_size": batch_size, "learning_rate": rate, **told})
                percents = (f"{100 * accuracy:.2f}" for accuracy in (row.masked_accuracy, row.accuracy))
                table.add_row(str(batch_size), f"{rate:g}", row.rule, *percents)
    console.out.print(table)
    found_on = {
        "split": "validation",
        "images": len(judged),
        "share": share,
        "training_images": len(train),
        "epochs": epochs,
    }
    training = {"optimizer": recipe.training.optimizer, "bf16": recipe.training.bf16}
    write_json(ROOT / "results" / name / NAME, {**found_on, **training, "rows": rows, "machine": machine()})


if __name__ == "__main__":
    typer.run(main)
