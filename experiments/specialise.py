"""Models for a few labels of a data set: made from one for all, against fresh ones of the same shape and training time.

    python experiments/specialise.py runs/cifar100 cifar100 --set training.bf16=true

For random subsets of the labels, the dense model is specialised to a speed-up, taking what accuracy comes; then a model
of the resulting shape is trained from random weights on the same images, once from their labels and once from the dense
model's logits, at the recipe's own settings, for as many epochs as take the processor as long as the specialisation
did. Accuracies are those among the labels of the subset on test images, compared subset by subset. The latency of the
layers is measured before and not part of any time. Writes results/NAME/specialise.json after each subset, goes on after
the last one there, and `record_study.py` puts the record into docs/results.md.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

import torch
import typer
from headwise.bundle import file_sha256
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SetOption, ThreadsOption
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.base import Dataset
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.data.label_subsets import choose_labels
from headwise_exporter.export.latency import Latency, measure_table
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.model.config import CCTConfig, count_macs
from headwise_exporter.nodes.measurements import Measurements
from headwise_exporter.overrides import override
from headwise_exporter.pruning.prune import Pruned, prune
from headwise_exporter.pruning.search import Cost
from headwise_exporter.pruning.specialisation import LabelReading, specialised_head
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.run import DENSE, trained_dataset, trained_recipe
from headwise_exporter.stages.specialise import specialised_recipe
from headwise_exporter.stages.stage import plain
from headwise_exporter.studies.paired import mean_difference
from headwise_exporter.studies.settings import SubsetSettings
from headwise_exporter.studies.subsets import draw_subsets
from headwise_exporter.studies.wording import percent, points
from headwise_exporter.training.distillation import Teacher
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings
from records import RESULTS, SPECIALISE, NameArgument, ResultsOption, RunArgument, read_record, write_record
from rich import box
from rich.table import Table

KINDS = ("dense", "specialised", "fresh_labels", "fresh_logits")
NO_MEASUREMENTS = Measurements({}, {})  # without masks, and by a criterion that knows no fields, none are looked at


def specialised_model(
    reading: LabelReading, train_data: LabelledImages, validation_data: LabelledImages, recipe: Recipe, latency: Latency
) -> tuple[Pruned, float]:
    """The model for the subset, and the seconds of processor time that it took."""

    def cost_of(dense: CCTConfig) -> Cost:
        return Cost("latency", latency.table.seconds, latency.speedup)

    started = time.process_time()
    whole = specialised_head(reading, train_data)
    data = (train_data, validation_data)
    pruned = prune(whole, NO_MEASUREMENTS, *data, recipe.prune, recipe.training, cost_of=cost_of)
    return pruned, time.process_time() - started


def fresh_model(
    config: CCTConfig, data: LabelledImages, recipe: Recipe, teacher: Teacher | None, seconds: float
) -> tuple[CCT, int]:
    """A model trained from random weights for so many seconds of processor time, and how many epochs these were."""

    def trained(training: TrainingSettings) -> CCT:
        torch.manual_seed(training.seed)
        dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
        model = CCT(config, **dropout)
        train(model, data, training, teacher=teacher)
        return model

    started = time.process_time()
    trained(replace(recipe.training, epochs=1, warm_up_epochs=0))
    epochs = max(1, round(seconds / (time.process_time() - started)))
    warm_up = min(recipe.training.warm_up_epochs, epochs / 10)
    return trained(replace(recipe.training, epochs=epochs, warm_up_epochs=warm_up)), epochs


def row(data: Dataset, labels: Sequence[int], dense: CCT, recipe: Recipe, latency: Latency) -> dict[str, Any]:
    """Everything about one subset."""
    names = [data.label_names[label] for label in labels]
    chosen, reading = choose_labels(data, names), LabelReading(dense, labels)
    train_data, validation_data, test_data = (split_images(chosen, split) for split in ("train", "validation", "test"))
    pruned, seconds = specialised_model(reading, train_data, validation_data, recipe, latency)
    small = pruned.chosen.model
    models = {"dense": reading, "specialised": small}
    epochs = {}
    for kind, teacher in (("fresh_labels", None), ("fresh_logits", Teacher(reading, recipe.prune.distillation))):
        models[kind], epochs[kind] = fresh_model(small.config, train_data, recipe, teacher, seconds)
    return {
        "labels": names,
        "accuracies": {kind: evaluate(models[kind], test_data).accuracy for kind in KINDS},
        "validation_accuracies": [candidate.validation_accuracy for candidate in pruned.candidates],
        "dense_validation_accuracy": pruned.dense_accuracy,
        "speedup": latency.speedup(small.config),
        "parameters": count_parameters(small),
        "macs": count_macs(small.config),
        "shape": small.config.to_dict(),
        "seconds": seconds,
        "epochs": epochs,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the subsets, and every other kind of model against the specialised ones."""
    by_kind = {kind: [row["accuracies"][kind] for row in rows] for kind in KINDS}
    return {
        "accuracies": {kind: sum(values) / len(rows) for kind, values in by_kind.items()},
        "specialised_against": {
            kind: asdict(mean_difference(by_kind["specialised"], by_kind[kind]))
            for kind in KINDS
            if kind != "specialised"
        },
        "speedup": {"mean": sum(row["speedup"] for row in rows) / len(rows), "lowest": min(r["speedup"] for r in rows)},
        **{name: sum(row[name] for row in rows) / len(rows) for name in ("parameters", "macs", "seconds")},
    }


def table(record: dict[str, Any]) -> Table:
    """A line for each kind of model."""
    results = record["results"]
    shown = Table("model", "accuracy %", "specialised is better by (95 %)", box=box.SIMPLE_HEAD)
    speedup = results["speedup"]
    shown.title = (
        f"{len(record['rows'])} subsets of {record['labels']} labels, {speedup['mean']:.2f} times as fast as dense "
        f"(lowest {speedup['lowest']:.2f})"
    )
    for kind in KINDS:
        against = results["specialised_against"].get(kind)
        difference = (
            f"{points(against['mean'])} ({points(against['low'])} to {points(against['high'])})" if against else ""
        )
        shown.add_row(kind.replace("_", ", "), percent(results["accuracies"][kind]), difference)
    return shown


def main(
    run: RunArgument,
    name: NameArgument,
    labels: Annotated[int, typer.Option(min=2, help="Of each subset.")] = 10,
    subsets: Annotated[int, typer.Option(min=1, help="Drawn at random, the same ones each time.")] = 20,
    speedup: Annotated[float, typer.Option(help="To be reached.")] = 5.0,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Specialise, train fresh models, and record."""
    set_threads(threads)
    data, dense = trained_dataset(run, console.progress), load_model(run / DENSE)
    drawn = draw_subsets(len(data.label_names), SubsetSettings(labels=labels, subsets=subsets))
    few = choose_labels(data, [data.label_names[label] for label in drawn[0]])
    asked = [f"prune.search.speedup={speedup}", "prune.max_drop_points=100", *(settings or ())]
    recipe = override(specialised_recipe(trained_recipe(run), len(data.train), len(few.train)), asked)
    identity = plain({"dense_sha256": file_sha256(run / DENSE), "labels": labels, "recipe": asdict(recipe)})
    path = results / name / SPECIALISE
    before = read_record(path)
    rows = before["rows"] if before.get("identity") == identity else []
    latency = Latency(measure_table(replace(dense.config, labels=labels)))
    with console.progress("specialise", subsets, "subsets") as advance:
        advance(len(rows), resumed=True)
        for chosen in drawn[len(rows) :]:
            rows = [*rows, row(data, chosen, dense, recipe, latency)]
            accuracies = rows[-1]["accuracies"]
            advance(1, ", ".join(f"{kind} {percent(accuracy)}" for kind, accuracy in accuracies.items()))
            record = {
                "identity": identity,
                "labels": labels,
                "split": "test",
                "subsets": subsets,
                "speedup_asked": speedup,
                "dense": {"parameters": count_parameters(dense), "macs": count_macs(dense.config)},
                "rows": rows,
                "results": summary(rows),
            }
            write_record(path, record)
    console.out.print(table(read_record(path)))


if __name__ == "__main__":
    typer.run(main)
