"""How many images of a label pruning by SNPs needs, and whether they must be held out.

    exporter measure --run runs/flowers102
    python experiments/images_to_measure_on.py runs/flowers102 flowers102 --split test

The nodes of the trained model are measured on 1, 2, 5 ... training images of each label, three draws of each, and on
the validation images unless the masked models are evaluated on those; ANDC and `wanda*overlap` then keep a share of the
connections, and the masked model is evaluated at once, without training. `wanda` alone is beside them. Writes
results/NAME/images_to_measure_on.json, which `record_study.py` puts into docs/results.md.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SplitOption, ThreadsOption
from headwise_exporter.commands.settings import split_name
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.measurements import PRUNING_IMAGES, load_measurements
from headwise_exporter.nodes.snp import NodeMeasurement, Probe, measure
from headwise_exporter.pruning.andc import andc_masks_keeping
from headwise_exporter.pruning.connections import Evidence, choose_masks, input_scales
from headwise_exporter.pruning.masking import SCALE_IMAGES
from headwise_exporter.pruning.masks import Masks
from headwise_exporter.stages.run import DENSE, DENSE_MEASUREMENTS, trained_dataset
from headwise_exporter.studies.wording import percent
from headwise_exporter.training.evaluation import evaluate
from records import IMAGES_TO_MEASURE_ON, RESULTS, MeasuredRunArgument, NameArgument, ResultsOption, write_record
from rich import box
from rich.table import Table

IMAGES_OF_A_LABEL = (1, 2, 5, 10, 20, 50, PRUNING_IMAGES)
DRAWS = 3
BASELINE, MASK_BY = "wanda", ("andc", "wanda*overlap")


@dataclass(frozen=True)
class Row:
    """Masked models, one for each draw of the images that the nodes were measured on."""

    measured_on: str  # split; "" where the masks need no node
    images: int  # that the nodes were measured on
    of_a_label: int  # at most
    mask_by: str
    accuracies: list[float]


Nodes = Mapping[str, NodeMeasurement]


def masked_accuracy(model: CCT, masks: Masks, evaluated: LabelledImages) -> float:
    """Of a copy of the model under the masks."""
    masked = copy.deepcopy(model)
    masks.apply(masked)
    return evaluate(masked, evaluated).accuracy


def draws_of_images(
    train_data: LabelledImages, validation_data: LabelledImages | None
) -> Iterator[tuple[str, list[LabelledImages]]]:
    """The split of each set of images to measure on, and its draws; it ends with all images of the largest label."""
    if validation_data is not None:
        yield "validation", [validation_data]
    most = int(train_data.labels_N.bincount().max())
    for images in (number for number in IMAGES_OF_A_LABEL if number < 2 * most):
        draws = DRAWS if images < most else 1
        yield "train", [train_data.sample_of_each_label(images, seed) for seed in range(draws)]


def rows_of(
    model: CCT,
    probes: Mapping[str, Probe],
    train_data: LabelledImages,
    validation_data: LabelledImages | None,
    evaluated: LabelledImages,
    share: float,
) -> Iterator[Row]:
    """Every split and number of images to measure on, one choice of masks after the other."""
    scales = input_scales(model, train_data.sample(SCALE_IMAGES))

    def accuracies(mask_by: str, measured: Sequence[Nodes]) -> list[float]:
        masks = (
            choose_masks(mask_by, andc_masks_keeping(model, nodes, "both", share), Evidence(model, nodes, scales))
            for nodes in measured
        )
        return [masked_accuracy(model, chosen, evaluated) for chosen in masks]

    measured: list[dict[str, NodeMeasurement]] = []
    for split, draws in draws_of_images(train_data, validation_data):
        measured = [measure(model, probes, data) for data in draws]
        of_a_label = int(draws[0].labels_N.bincount().max())
        for mask_by in MASK_BY:
            yield Row(split, len(draws[0]), of_a_label, mask_by, accuracies(mask_by, measured))
    yield Row("", 0, 0, BASELINE, accuracies(BASELINE, measured[:1]))


def table(rows: Sequence[Row]) -> Table:
    """A line for each row, with the accuracy of every draw."""
    shown = Table("measured on", "images", "of a label", "masks by", "accuracy %", box=box.SIMPLE_HEAD)
    for row in rows:
        accuracies = ", ".join(map(percent, row.accuracies))
        shown.add_row(row.measured_on, f"{row.images:,}", str(row.of_a_label), row.mask_by, accuracies)
    return shown


def main(
    run: MeasuredRunArgument,
    name: NameArgument,
    split: SplitOption = "validation",
    share: Annotated[float, typer.Option(help="Of the connections.")] = 0.1,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Measure, mask, evaluate and record."""
    set_threads(threads)
    data, model = trained_dataset(run, console.progress), load_model(run / DENSE)
    evaluated = split_images(data, split_name(split))
    validation_data = None if split == "validation" else split_images(data, "validation")
    probes = load_measurements(run / DENSE_MEASUREMENTS).probes
    rows = []
    with console.progress("measure", 2 * (len(IMAGES_OF_A_LABEL) + 1) + 1, "models") as advance:
        for row in rows_of(model, probes, split_images(data, "train"), validation_data, evaluated, share):
            rows.append(row)
            advance(1, row.mask_by)
    console.out.print(table(rows))
    dense = masked_accuracy(model, Masks(), evaluated)
    record = {"split": split, "images": len(evaluated), "share": share, "dense_accuracy": dense}
    write_record(results / name / IMAGES_TO_MEASURE_ON, {**record, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    typer.run(main)
