"""Record a finished training: its figures and curve under results/, its weights among the shipped checkpoints.

    exporter train --dataset cifar100 --recipe cifar100_cpu --run runs/cifar100
    python experiments/record_training.py runs/cifar100 cifar100

writes results/NAME/training.json (data set, recipe, every epoch, test accuracy with its interval, machine),
results/NAME/training.svg and, in exporter/headwise_exporter/checkpoints, NAME.safetensors (float16, for
`--init checkpoint:NAME`). The accuracy is that of the float16 weights. Minutes are those spent in steps, without the
evaluations in between.

`--average checkpoint:NAME` takes the mean of the run's weights and these, those it started from as a rule: both lie in
one basin, and their mean is often better than either (Wortsman et al., arXiv:2109.01903). The record has the validation
accuracy too, by which to choose.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import RunArgument
from headwise_exporter.data.images import split_images
from headwise_exporter.files import atomic_write
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model, save_model
from headwise_exporter.model.initial_weights import load_initial_weights
from headwise_exporter.model.shipped import SHIPPED_FOLDER
from headwise_exporter.stages.run import DENSE, trained_dataset, training_record
from headwise_exporter.studies.drawing import svg
from headwise_exporter.studies.plots import training_curve
from headwise_exporter.training.evaluation import accuracy
from records import RESULTS, TRAINING, ResultsOption, write_record


def draw(record: dict[str, Any], path: Path) -> None:
    """The curve, with the test accuracy at its end."""
    test = record["test"]
    low, middle, high = (100 * test[key] for key in ("interval_low", "accuracy", "interval_high"))
    curve = training_curve(record, test)
    curve.axes[0].set_title(
        f"{record['name']}: {middle:.2f} % ({low:.2f}-{high:.2f}) on {test['images']:,} test images"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(svg(curve), "utf-8")


def shipped_model(run: Path, average: str | None) -> CCT:
    """The run's model; or the mean of its weights and others, positions resized where they must be."""
    model = load_model(run / DENSE)
    if average is not None:
        other = CCT(model.config)
        load_initial_weights(other, average)
        own, others = model.state_dict(), other.state_dict()
        model.load_state_dict({name: torch.lerp(own[name], others[name], 0.5) for name in own})
    return model


def recorded(run: Path, name: str, weights: Path, average: str | None = None) -> dict[str, Any]:
    """All about a training, with the test accuracy of the weights that are shipped; writes these."""
    training, data = training_record(run), trained_dataset(run, console.progress)
    with tempfile.TemporaryDirectory() as folder:  # evaluated first: the weights appear with their record
        half = Path(folder) / weights.name
        save_model(half, shipped_model(run, average).half())
        validation = asdict(accuracy("dense", load_model(half), "validation", split_images(data, "validation")))
        test = asdict(accuracy("dense", load_model(half), "test", split_images(data, "test")))
        with atomic_write(weights) as temporary:
            temporary.write_bytes(half.read_bytes())
    seconds = sum(len(data.train) / epoch["images_per_second"] for epoch in training["epochs"])
    settings = {key: value for key, value in training["dataset"].items() if key != "data_dir"}
    figures = {"averaged_with": average, "validation": validation, "test": test, "minutes": seconds / 60}
    return {"name": name, **training, "dataset": settings, **figures}


def main(
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="Of the folder under results/ and of the checkpoint.")],
    results: ResultsOption = RESULTS,
    checkpoints: Annotated[Path, typer.Option(help="Folder of the weights.")] = SHIPPED_FOLDER,
    average: Annotated[str | None, typer.Option(help="Weights to average the run's with: a file or a name.")] = None,
) -> None:
    """Evaluate, draw and write."""
    record = recorded(run, name, checkpoints / f"{name}.safetensors", average)
    write_record(results / name / TRAINING, record)
    draw(record, (results / name / TRAINING).with_suffix(".svg"))
    percent = 100 * record["test"]["accuracy"]
    console.out.print(f"{name}: test accuracy {percent:.2f} %, {record['minutes']:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
