"""Record a finished training: its figures and curve under results/, its weights under checkpoints/.

    exporter train --dataset cifar100 --recipe cifar100_cpu --run runs/cifar100
    python benchmarks/record_training.py runs/cifar100 cifar100

writes results/NAME/training.json (data set, recipe, every epoch, test accuracy with its interval, machine),
results/NAME/training.svg and checkpoints/NAME.safetensors (float16, for `--init checkpoint:NAME`). The accuracy is
that of the float16 weights. Minutes are those spent in steps, without the evaluations in between.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from headwise_exporter.commands import console
from headwise_exporter.training.evaluation import accuracy
from headwise_exporter.files import atomic_write, write_json
from headwise_exporter.model.checkpoints import load_model, save_model
from headwise_exporter.stages.build import DENSE, split_images, trained_dataset, training_record
from headwise_exporter.studies.plots import training_curve
from headwise_exporter.studies.report import svg
from timing import machine

ROOT = Path(__file__).resolve().parent.parent


def draw(record: dict[str, Any], path: Path) -> None:
    """The curve, with the test accuracy at its end."""
    found = record["test"]
    low, middle, high = (100 * found[key] for key in ("interval_low", "accuracy", "interval_high"))
    title = f"{record['name']}: {middle:.2f} % ({low:.2f}-{high:.2f}) on {found['images']:,} test images"
    drawn = training_curve(record, found)
    drawn.axes[0].set_title(title)
    with atomic_write(path) as temporary:
        temporary.write_text(svg(drawn), "utf-8")


def recorded(run: Path, name: str) -> dict[str, Any]:
    """All about a training, with the test accuracy of the weights that are shipped; writes these."""
    told = training_record(run)
    data = trained_dataset(run, console.progress)
    weights = ROOT / "checkpoints" / f"{name}.safetensors"
    with tempfile.TemporaryDirectory() as folder:  # evaluated first: the weights appear with their record
        half = Path(folder) / weights.name
        save_model(half, load_model(run / DENSE).half())
        test = vars(accuracy("dense", load_model(half), "test", split_images(data, "test")))
        with atomic_write(weights) as temporary:
            temporary.write_bytes(half.read_bytes())
    seconds = sum(len(data.train) / epoch["images_per_second"] for epoch in told["epochs"])
    settings = {key: value for key, value in told["dataset"].items() if key != "data_dir"}
    return {"name": name, **told, "dataset": settings, "test": test, "minutes": seconds / 60, "machine": machine()}


def main(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    name: Annotated[str, typer.Argument(help="Of the folder under results/ and of the checkpoint.")],
) -> None:
    """Evaluate, draw and write."""
    record = recorded(run, name)
    write_json(ROOT / "results" / name / "training.json", record)
    draw(record, ROOT / "results" / name / "training.svg")
    console.out.print(
        f"{name}: test accuracy {100 * record['test']['accuracy']:.2f} %, {record['minutes']:.1f} minutes"
    )


if __name__ == "__main__":
    typer.run(main)
