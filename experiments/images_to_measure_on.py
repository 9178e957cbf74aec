"""How many images of a label pruning by SNPs needs, and whether they must be held out.

    exporter measure --run runs/flowers102
    python benchmarks/images_to_measure_on.py runs/flowers102 flowers102 --split test

The nodes of the trained model are measured on 1, 2, 5 ... training images of each label, three draws of each, and on
the validation images unless those judge; ANDC and `wanda*overlap` then keep a share of the connections, and the masked
model is judged at once, without training. `wanda` alone is beside them. Writes
results/NAME/images_to_measure_on.json, which `record_study.py` puts into docs/results.md.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import split_name
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.files import write_json
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_measurements, load_model
from headwise_exporter.nodes.snp import NodeMeasurement, Probe, measure
from headwise_exporter.pruning import andc
from headwise_exporter.pruning.connections import Evidence, input_scales, masks_by
from headwise_exporter.stages.build import DENSE, DENSE_MEASUREMENTS, PRUNING_IMAGES, split_images, trained_dataset
from headwise_exporter.training.loop import predict
from rich import box
from rich.table import Table
from timing import machine
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
NAME = "images_to_measure_on.json"
OF_A_LABEL = (1, 2, 5, 10, 20, 50, PRUNING_IMAGES)
DRAWS = 3
BASELINE, RULES = "wanda", ("andc", "wanda*overlap")


@dataclass(frozen=True)
class Row:
    """Masked models, one for each draw of the images that the nodes were measured on."""

    measured_on: str  # split; "" where the rule needs no node
    images: int  # that the nodes were measured on
    of_a_label: int  # at most
    rule: str
    accuracies: list[float]


def masked_accuracy(model: CCT, masks: Mapping[str, Tensor], judged: LabelledImages) -> float:
    """Of a copy of the model under the masks."""
    masked = copy.deepcopy(model)
    andc.apply_masks(masked, masks)
    return float((predict(masked, judged).argmax(1) == judged.labels_N).double().mean())


def rows_of(
    model: CCT,
    probes: Mapping[str, Probe],
    train: LabelledImages,
    validation: LabelledImages | None,
    judged: LabelledImages,
    share: float,
) -> Iterator[Row]:
    """Every source and number of images, rule by rule; the label with most images tells where training images end."""
    scales = input_scales(model, train.sample(5000))
    most = int(train.labels_N.bincount().max())

    def accuracies(rule: str, measurements: list[Mapping[str, NodeMeasurement]]) -> list[float]:
        masks = (
            masks_by(rule, andc.masks_keeping(model, nodes, "both", share), Evidence(model, nodes, scales))
            for nodes in measurements
        )
        return [masked_accuracy(model, kept, judged) for kept in masks]

    sources = [("validation", [validation])] if validation is not None else []
    for images in (number for number in OF_A_LABEL if number < 2 * most):
        draws = DRAWS if images < most else 1
        sources.append(("train", [train.sample_of_each_label(images, seed) for seed in range(draws)]))
    for split, drawn in sources:
        measurements = [measure(model, probes, data) for data in drawn]
        of_a_label = int(drawn[0].labels_N.bincount().max())
        for rule in RULES:
            yield Row(split, len(drawn[0]), of_a_label, rule, accuracies(rule, measurements))
    yield Row("", 0, 0, BASELINE, accuracies(BASELINE, measurements[:1]))


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a measured run.")],
    name: Annotated[str, typer.Argument(help="Of the folder under results/.")],
    split: Annotated[str, typer.Option(help="Images to judge on.")] = "validation",
    share: Annotated[float, typer.Option(help="Of the connections.")] = 0.1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Measure, mask, judge and record."""
    set_threads(threads)
    data, model = trained_dataset(run, console.progress), load_model(run / DENSE)
    judged, validation = split_images(data, split_name(split)), split_images(data, "validation")
    table = Table("measured on", "images", "of a label", "by", "accuracy %", box=box.SIMPLE_HEAD)
    rows = []
    with console.progress("measure", 2 * (len(OF_A_LABEL) + 1) + 1) as advance:
        for row in rows_of(
            model,
            load_measurements(run / DENSE_MEASUREMENTS).probes,
            split_images(data, "train"),
            None if split == "validation" else validation,
            judged,
            share,
        ):
            rows.append(row)
            accuracies = ", ".join(f"{100 * accuracy:.2f}" for accuracy in row.accuracies)
            table.add_row(row.measured_on, f"{row.images:,}", str(row.of_a_label), row.rule, accuracies)
            advance(row.rule)
    console.out.print(table)
    dense = masked_accuracy(model, {}, judged)
    found = {"split": split, "images": len(judged), "share": share, "dense_accuracy": dense}
    write_json(ROOT / "results" / name / NAME, {**found, "rows": [asdict(row) for row in rows], "machine": machine()})


if __name__ == "__main__":
    typer.run(main)
