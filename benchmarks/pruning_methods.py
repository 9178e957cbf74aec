"""Headwise's removal against others at the same operations: same dense model, same teacher, same training.

    exporter measure --run runs/cifar100
    python benchmarks/pruning_methods.py runs/cifar100 cifar100 --macs 0.5 --set training.bf16=true

Every method makes a model of at most that share of the dense model's multiply-accumulates and trains it by
distillation from the dense model, for as many epochs in all as the rounds of the search take together:

    search              removal in rounds with training in between, as `exporter prune --macs` does
    one shot, CRITERION the shape that the search came to, at once, its units chosen by a criterion or at random
    budget, taylor      the same shares of every kind of unit everywhere, at once
    torch-pruning, BY   Torch-Pruning over all layers at once, by its Taylor or magnitude importance of groups
    fresh               the search's shape from random weights

Accuracy is of validation images, and paired with the search's on the same images and seed (McNemar). Latency is
measured, in float32 on one thread in batches of 8, beside the dense model. Writes results/NAME/pruning_methods.json and
.svg; an interrupted run goes on with the next model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch_pruning_cct
import typer
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SetOption, ThreadsOption
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.export.latency import Latency, layers_measured, measure_table
from headwise_exporter.model.cct import CCT, count_parameters
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.model.config import CCTConfig, count_macs
from headwise_exporter.nodes.measurements import Measurements, load_measurements, pruning_measurements
from headwise_exporter.pruning import criteria
from headwise_exporter.pruning.compaction import Budget, choose
from headwise_exporter.pruning.prune import prune
from headwise_exporter.pruning.removal import UnitStatistics, remove_units, unit_statistics
from headwise_exporter.pruning.search import STATISTICS_IMAGES
from headwise_exporter.pruning.settings import PruneSettings, SearchSettings
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.run import DENSE, DENSE_MEASUREMENTS, trained_dataset, trained_recipe
from headwise_exporter.studies.comparison import mcnemar
from headwise_exporter.studies.wording import percent
from headwise_exporter.training.distillation import teacher_of
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import fine_tuning_settings
from records import RESULTS, MeasuredRunArgument, NameArgument, ResultsOption, read_record, write_record
from rich import box
from rich.table import Table

RECORD, PLOT = "pruning_methods.json", "pruning_methods.svg"
SEARCH = "search"
CRITERIA = ("taylor", "magnitude", "variance", "snp", "taylor*snp", "random")
BUDGETS = 12  # halvings of the range of the share that a budget keeps


@dataclass(frozen=True)
class Setting:
    """What all methods share."""

    dense: CCT
    measurements: Measurements
    train_data: LabelledImages
    validation_data: LabelledImages
    recipe: Recipe
    macs: float  # share
    statistics: UnitStatistics
    seen: LabelledImages  # training images that the statistics are of

    def scores(self, criterion: str, seed: int) -> dict[str, torch.Tensor]:
        """Of every unit of the dense model."""
        if criterion == "random":
            generator = torch.Generator().manual_seed(seed)
            groups = self.dense.unit_groups()
            return {group.name: torch.rand(group.units, generator=generator) for group in groups}
        threshold = self.recipe.prune.threshold
        return criteria.scores(self.dense, self.statistics.moments, self.measurements.nodes, threshold, criterion)

    def one_shot(self, shape: CCTConfig, criterion: str, seed: int) -> CCT:
        """The dense model cut to a shape."""
        return remove_units(self.dense, choose(self.dense, self.scores(criterion, seed), shape), self.statistics)


def searched(setting: Setting, seed: int, on_candidate: Callable[[str], None]) -> tuple[CCT, int]:
    """The search's model, and the epochs it was trained for."""
    settings: PruneSettings = replace(
        setting.recipe.prune,
        layers="both",
        mask_by="none",
        criterion="taylor",
        removal="search",
        search=replace(setting.recipe.prune.search, speedup=None, macs=setting.macs),
        max_drop_points=100,
    )
    pruned = prune(
        setting.dense,
        setting.measurements,
        setting.train_data,
        setting.validation_data,
        settings,
        replace(setting.recipe.training, seed=seed),
        on_candidate=lambda candidate: on_candidate(
            f"round {len(candidate.steps)}: {candidate.validation_accuracy:.2%}"
        ),
    )
    return pruned.chosen.model, len(pruned.candidates) * settings.epochs


def budget_shape(dense: CCTConfig, share: float) -> CCTConfig:
    """The same share of filters, hidden nodes and dimensions everywhere, at most so much of the operations."""
    low, high, best = 0.0, 1.0, Budget(*(1e-3,) * 5).config(dense)
    for _ in range(BUDGETS):
        kept = (low + high) / 2
        shape = Budget(feed_forward=kept, heads=1.0, query_key=kept, value=kept, filters=kept).config(dense)
        if count_macs(shape) <= share * count_macs(dense):
            low, best = kept, shape
        else:
            high = kept
    return best


Speedup = Callable[[CCTConfig], float]  # over the dense model, by the shape
Make = Callable[[int], CCT]  # from the seed


def one_shot_methods(setting: Setting, shape: CCTConfig) -> Iterator[tuple[str, Make]]:
    """Every method but the search, by name: the small model before its training."""
    for criterion in CRITERIA:
        yield f"one shot, {criterion}", partial(setting.one_shot, shape, criterion)
    uniform = budget_shape(setting.dense.config, setting.macs)
    yield "budget, taylor", partial(setting.one_shot, uniform, "taylor")
    for by in ("taylor", "magnitude"):
        make = partial(torch_pruning_cct.prune_to, setting.dense, setting.macs, by, setting.seen)
        yield f"torch-pruning, {by}", lambda seed, make=make: make()  # type: ignore[misc]  # a default binds it now

    def fresh(seed: int) -> CCT:
        torch.manual_seed(seed)
        return CCT(shape)

    yield "fresh", fresh


def trained(setting: Setting, small: CCT, epochs: int, seed: int) -> None:
    """Train a small model as all are trained."""
    pruning = setting.recipe.prune
    settings = fine_tuning_settings(setting.recipe.training, epochs, pruning.learning_rate, pruning.batch_size)
    teacher = teacher_of(setting.dense, pruning.distillation)
    train(small, setting.train_data, replace(settings, seed=seed), teacher=teacher)


def row(setting: Setting, method: str, seed: int, small: CCT, epochs: int, speedup: Speedup) -> dict[str, Any]:
    """What a model came to."""
    evaluation = evaluate(small, setting.validation_data)
    return {
        "method": method,
        "seed": seed,
        "epochs": epochs,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "macs": count_macs(small.config),
        "parameters": count_parameters(small),
        "speedup": speedup(small.config),
        "shape": small.config.to_dict(),
        "correct_bits": np.packbits(evaluation.correct_N.numpy()).tobytes().hex(),
    }


def wrong(entry: dict[str, Any], images: int) -> list[int]:
    """Images that a model got wrong."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["correct_bits"]), np.uint8))[:images]
    return [int(index) for index in np.flatnonzero(bits == 0)]


def summarise(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Over the seeds: accuracy, speed-up, and differences to the search."""
    of_search = {entry["seed"]: entry for entry in record["rows"] if entry["method"] == SEARCH}
    summary = []
    for method in dict.fromkeys(entry["method"] for entry in record["rows"]):
        own = [entry for entry in record["rows"] if entry["method"] == method]
        pairs = [(entry, of_search[entry["seed"]]) for entry in own]
        images = record["images"]
        summary.append(
            {
                "method": method,
                "seeds": len(own),
                "accuracies": [entry["accuracy"] for entry in own],
                "speedup": float(np.median([entry["speedup"] for entry in own])),
                "macs": own[0]["macs"],
                "to_search": [entry["accuracy"] - other["accuracy"] for entry, other in pairs],
                "p_values": [mcnemar(wrong(entry, images), wrong(other, images)) for entry, other in pairs],
            }
        )
    return summary


def table(record: dict[str, Any]) -> Table:
    """A line for each method."""
    shown = Table("method", "million MACs", "speed-up", "accuracy %", "to the search", "p", box=box.SIMPLE_HEAD)
    shown.title = f"dense {percent(record['dense_accuracy'])} %, {record['dense_macs'] / 1e6:.1f} million MACs"
    for entry in record["summary"]:
        spread = f"{percent(min(entry['accuracies']))}-{percent(max(entry['accuracies']))}"
        differences = ", ".join(f"{100 * value:+.2f}" for value in entry["to_search"])
        p_values = "" if entry["method"] == SEARCH else ", ".join(f"{value:.2g}" for value in entry["p_values"])
        size = (f"{entry['macs'] / 1e6:.1f}", f"{entry['speedup']:.2f}")
        shown.add_row(entry["method"], *size, spread, differences, p_values)
    return shown


def plot(record: dict[str, Any], path: Path) -> None:
    """Accuracy against measured speed-up: a point for each method, a line from its worst to its best seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    axes.axhline(100 * record["dense_accuracy"], color="0.6", linewidth=1, linestyle="--", label="dense, at 1")
    for entry in record["summary"]:
        accuracies = [100 * value for value in entry["accuracies"]]
        mean, marker = sum(accuracies) / len(accuracies), "*" if entry["method"] == SEARCH else "o"
        around = [[mean - min(accuracies)], [max(accuracies) - mean]]
        axes.errorbar(entry["speedup"], mean, yerr=around, fmt=marker, capsize=3, label=entry["method"])
    axes.set_xlabel("times faster than the dense model (float32, one thread, batch 8)")
    axes.set_ylabel("validation accuracy, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def main(
    run: MeasuredRunArgument,
    name: NameArgument,
    macs: Annotated[float, typer.Option(help="Share of the operations that each method keeps.")] = 0.5,
    seeds: Annotated[int, typer.Option(min=1, help="Of the training.")] = 3,
    images: Annotated[int | None, typer.Option(min=1, help="Training images; all by default.")] = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Make every method's model for every seed, and record."""
    SearchSettings(macs=macs)  # refuses a share without sense before anything is done
    set_threads(threads)
    data, dense = trained_dataset(run, console.progress), load_model(run / DENSE)
    recipe = trained_recipe(run, settings or ())
    train_data, validation_data = split_images(data, "train").sample(images), split_images(data, "validation")
    measurements = pruning_measurements(dense, load_measurements(run / DENSE_MEASUREMENTS).probes, train_data)
    seen = train_data.sample(STATISTICS_IMAGES)
    setting = Setting(
        dense, measurements, train_data, validation_data, recipe, macs, unit_statistics(dense, seen), seen
    )
    with console.progress("latency of the layers", layers_measured(dense.config), "graphs") as advance:
        speedup = cache(Latency(measure_table(dense.config, advance)).speedup)  # one for each shape
    path = results / name / RECORD
    asked = {"macs": macs, "training_images": len(train_data), "images": len(validation_data)}
    record = read_record(path)
    if {key: record.get(key) for key in asked} != asked:
        record = {**asked, "dense_macs": count_macs(dense.config), "rows": []}
        record["dense_accuracy"] = evaluate(dense, validation_data).accuracy
    done = {(entry["method"], entry["seed"]) for entry in record["rows"]}

    def add(entry: dict[str, Any]) -> None:
        record["rows"].append(entry)
        record["summary"] = summarise(record)
        write_record(path, record)

    methods = len(CRITERIA) + 5
    with console.progress("methods", seeds * methods, "models") as advance:
        for seed in range(seeds):
            if (SEARCH, seed) not in done:
                small, epochs = searched(setting, seed, lambda note: advance(0, note))
                add(row(setting, SEARCH, seed, small, epochs, speedup))
            advance(1, SEARCH)
            own = next(e for e in record["rows"] if (e["method"], e["seed"]) == (SEARCH, seed))
            for method, make in one_shot_methods(setting, CCTConfig.from_dict(own["shape"])):
                if (method, seed) not in done:
                    advance(0, method)
                    small = make(seed)
                    trained(setting, small, own["epochs"], seed)
                    add(row(setting, method, seed, small, own["epochs"], speedup))
                advance(1)
    plot(record, results / name / PLOT)
    console.out.print(table(record))


if __name__ == "__main__":
    typer.run(main)
