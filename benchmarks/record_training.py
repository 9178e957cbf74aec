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

import matplotlib as mpl
import typer
from matplotlib import pyplot
from timing import machine

from exporter import console
from exporter.checkpoints import load_model, save_model
from exporter.files import whole_file, write_json
from exporter.metrics import accuracy
from exporter.pipeline import DENSE, part_images, trained_dataset, training_record

ROOT = Path(__file__).resolve().parent.parent


def draw(record: dict[str, Any], path: Path) -> None:
    """Loss and calibration accuracy by epoch, and the test accuracy at the end."""
    epochs, found = record["epochs"], record["test"]
    evaluated = [epoch for epoch in epochs if epoch["calibration_accuracy"] is not None]
    mpl.rcParams["svg.hashsalt"] = "headwise"  # the same figures give the same file
    figure, loss_axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    numbers = [epoch["epoch"] for epoch in epochs]
    loss_axes.plot(numbers, [epoch["loss"] for epoch in epochs], color="#0072B2", label="training loss")
    loss_axes.set(xlabel="epoch", ylabel="training loss (augmented images)", xlim=(0, numbers[-1] + 0.5))
    accuracy_axes = loss_axes.twinx()
    percents = [100 * epoch["calibration_accuracy"] for epoch in evaluated]
    evaluated_numbers = [epoch["epoch"] for epoch in evaluated]
    accuracy_axes.plot(evaluated_numbers, percents, "o-", color="#D55E00", label="calibration accuracy")
    low, middle, high = (100 * found[key] for key in ("interval_low", "accuracy", "interval_high"))
    error = [[middle - low], [high - middle]]
    accuracy_axes.errorbar([numbers[-1]], [middle], error, fmt="s", color="black", capsize=4, label="test accuracy")
    accuracy_axes.set(ylabel="accuracy %", ylim=(0, 100))
    handles = [*loss_axes.get_legend_handles_labels()[0], *accuracy_axes.get_legend_handles_labels()[0]]
    loss_axes.legend(handles=handles, loc="center right")
    loss_axes.set_title(f"{record['name']}: {middle:.2f} % ({low:.2f}-{high:.2f}) on {found['images']:,} test images")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def recorded(run: Path, name: str) -> dict[str, Any]:
    """All about a training, with the test accuracy of the weights that are shipped; writes these."""
    told = training_record(run)
    data = trained_dataset(run, console.progress)
    weights = ROOT / "checkpoints" / f"{name}.safetensors"
    with tempfile.TemporaryDirectory() as folder:  # evaluated first: the weights appear with their record
        half = Path(folder) / weights.name
        save_model(half, load_model(run / DENSE).half())
        test = vars(accuracy("dense", load_model(half), "test", part_images(data, "test")))
        with whole_file(weights) as temporary:
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
