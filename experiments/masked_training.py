"""Masks in force during a whole training, not after it: new models are trained under the masks of a trained one.

    exporter measure --run runs/cifar100
    python experiments/masked_training.py runs/cifar100 cifar100 --epochs 10 --images 5000 --share 0.1

All weights start at random and all of them learn; of the trained model nothing is taken but which connections there
are. `dense` is the same training without masks. Masks, layers, shares and the paired test are those of
`exporter compare`; the recipe's training is shortened to `--epochs`. Rows are kept in RUN/masked_training.json, and
taken from there when it is run again with the same settings. Writes results/NAME/masked_training.json, which
`record_study.py` puts into docs/results.md.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from headwise.bundle import file_sha256
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SeedsOption, SetOption, SplitOption, ThreadsOption
from headwise_exporter.commands.settings import split_name
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.base import SplitName
from headwise_exporter.data.images import LabelledImages, split_images
from headwise_exporter.files import write_json
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.nodes.measurements import load_measurements, pruning_measurements
from headwise_exporter.pruning.andc import andc_masks_keeping
from headwise_exporter.pruning.connections import Evidence, choose_masks, input_scales
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.run import DENSE, DENSE_MEASUREMENTS, trained_dataset, trained_recipe
from headwise_exporter.stages.stage import plain
from headwise_exporter.studies import comparison
from headwise_exporter.studies.comparison import Row
from headwise_exporter.studies.settings import ComparisonSettings
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import fine_tuning_settings
from records import (
    MASKED_TRAINING,
    RESULTS,
    MeasuredRunArgument,
    NameArgument,
    ResultsOption,
    read_record,
    write_record,
)

MASK_BY = ("andc", "random", "magnitude", "wanda*overlap")


def trained_row(
    case: comparison.Case,
    evidence: Evidence,
    recipe: Recipe,
    settings: ComparisonSettings,
    train_data: LabelledImages,
    evaluated: LabelledImages,
) -> Row:
    """One model trained under its masks from its first step on."""
    share, seed, mask_by = case
    andc = andc_masks_keeping(evidence.model, evidence.nodes, settings.layers, share)
    masks = choose_masks(mask_by, andc, evidence, seed)
    torch.manual_seed(seed)
    dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
    model = CCT(evidence.model.config, **dropout)
    masks.apply(model)
    at_once = evaluate(model, evaluated).accuracy
    training = replace(fine_tuning_settings(recipe.training, settings.epochs, settings.learning_rate), seed=seed)
    train(model, train_data, training, after_step=masks.reapply(model))
    return comparison.make_row(case, masks.kept_share(), at_once, evaluate(model, evaluated))


def known_rows(path: Path, identity: dict[str, Any]) -> list[Row]:
    """Rows of an earlier call with the same identity."""
    saved = read_record(path)
    return [comparison.row_from(row) for row in saved["rows"]] if saved.get("identity") == identity else []


def trained_rows(run: Path, recipe: Recipe, settings: ComparisonSettings, split: SplitName) -> list[Row]:
    """A row for every case, those of an earlier call taken as they are."""
    data, dense = trained_dataset(run, console.progress), load_model(run / DENSE)
    train_data, evaluated = split_images(data, "train"), split_images(data, split)
    probes = load_measurements(run / DENSE_MEASUREMENTS).probes
    seen = train_data.sample(settings.images)
    evidence = Evidence(dense, pruning_measurements(dense, probes, train_data).nodes, input_scales(dense, seen))
    hashes = {name: file_sha256(run / name) for name in (DENSE, DENSE_MEASUREMENTS)}
    identity = plain({"split": split, "training": asdict(recipe.training), **hashes, **asdict(settings)})
    rows = known_rows(run / MASKED_TRAINING, identity)
    done = {(row.share, row.seed, row.mask_by) for row in rows}
    cases = list(comparison.cases(settings))
    with console.progress("train", len(cases), "models") as advance:
        advance(len(rows), resumed=True)
        for case in (case for case in cases if case not in done):
            rows.append(trained_row(case, evidence, recipe, settings, seen, evaluated))
            write_json(run / MASKED_TRAINING, {"identity": identity, "rows": [asdict(row) for row in rows]})
            advance(1, f"{case[2]} {case[0]:.0%}: {rows[-1].accuracy:.2%}")
    return rows


def main(
    run: MeasuredRunArgument,
    name: NameArgument,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")],
    images: Annotated[int | None, typer.Option(min=1, help="Training images; all by default.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="Of the connections; may be repeated. 0.1.")] = None,
    seeds: SeedsOption = 3,
    settings: SetOption = None,
    split: SplitOption = "validation",
    threads: ThreadsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Train, compare and record."""
    set_threads(threads)
    recipe = trained_recipe(run, settings or ())
    peak = recipe.training.learning_rate
    asked = ComparisonSettings(tuple(share or (0.1,)), MASK_BY, seeds, epochs=epochs, images=images, learning_rate=peak)
    training = asdict(fine_tuning_settings(recipe.training, epochs, peak))
    compared = comparison.as_record(asked, trained_rows(run, recipe, asked, split_name(split)))
    record = {"split": split, "training": training, **compared}
    console.out.print(console.comparison_table(record))
    write_record(results / name / MASKED_TRAINING, {key: value for key, value in record.items() if key != "rows"})


if __name__ == "__main__":
    typer.run(main)
