"""Masks in force during a whole training, not after it: new models are trained under the masks of a trained one.

    exporter measure --run runs/cifar100
    python benchmarks/masked_training.py runs/cifar100 cifar100 --epochs 10 --images 5000 --share 0.1

All weights start at random and all of them learn; of the trained model nothing is taken but which connections there
are. `dense` is the same training without masks. Rules, layers, shares and the paired test are those of
`exporter compare`; the recipe's training is shortened to `--epochs`. Rows are kept in RUN/masked_training.json, and
taken from there when it is run again with the same settings. Writes results/NAME/masked_training.json, which
`record_study.py` puts into docs/results.md.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from headwise.bundle import file_sha256
from headwise_exporter.commands import console
from headwise_exporter.commands.options import SetOption, split_name
from headwise_exporter.commands.shared import set_threads
from headwise_exporter.data.base import SplitName
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.files import write_json
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.pruning import andc
from headwise_exporter.pruning.connections import Evidence, input_scales, masks_by
from headwise_exporter.recipes import Recipe
from headwise_exporter.stages.build import (
    DENSE,
    DENSE_MEASUREMENTS,
    pruning_measurements,
    split_images,
    trained_dataset,
    trained_recipe,
)
from headwise_exporter.stages.stage import plain
from headwise_exporter.studies import comparison
from headwise_exporter.studies.comparison import ComparisonSettings, Row
from headwise_exporter.training.loop import fine_tuning_settings, predict, train
from timing import machine

ROOT = Path(__file__).resolve().parent.parent
ROWS = "masked_training.json"
RULES = ("andc", "random", "magnitude", "wanda*overlap")


def trained_row(
    case: comparison.Case,
    evidence: Evidence,
    recipe: Recipe,
    settings: ComparisonSettings,
    data: LabelledImages,
    judged: LabelledImages,
) -> Row:
    """One model trained under its masks from its first step on."""
    share, seed, rule = case
    masks = masks_by(rule, andc.masks_keeping(evidence.model, evidence.nodes, settings.rule, share), evidence, seed)
    torch.manual_seed(seed)
    dropout = {name: getattr(recipe.model, name) for name in ("attention_dropout", "stochastic_depth")}
    model = CCT(evidence.model.config, **dropout)
    andc.apply_masks(model, masks)
    at_once = predict(model, judged).argmax(1) == judged.labels_N
    training = replace(fine_tuning_settings(recipe.training, settings.epochs, settings.learning_rate), seed=seed)
    train(model, data, training, after_step=andc.reapply(model, masks))
    right = predict(model, judged).argmax(1) == judged.labels_N
    wrong = tuple(torch.nonzero(~right).flatten().tolist())
    accuracies = (float(found.double().mean()) for found in (at_once, right))
    return Row(share, seed, rule, andc.kept_share(masks), len(judged), *accuracies, wrong)


def known_rows(path: Path, identity: dict[str, Any]) -> list[Row]:
    """Rows of an earlier call with the same identity."""
    saved = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return [comparison.row_from(row) for row in saved["rows"]] if saved.get("identity") == identity else []


def trained_rows(run: Path, recipe: Recipe, settings: ComparisonSettings, split: SplitName) -> list[Row]:
    """A row for every case, those of an earlier call taken as they are."""
    data, dense = trained_dataset(run, console.progress), load_model(run / DENSE)
    training, judged = split_images(data, "train").sample(settings.images), split_images(data, split)
    nodes = pruning_measurements(run, dense, data).nodes
    evidence = Evidence(dense, nodes, input_scales(dense, training))
    hashes = {name: file_sha256(run / name) for name in (DENSE, DENSE_MEASUREMENTS)}
    identity = plain({"split": split, "training": asdict(recipe.training), **hashes, **asdict(settings)})
    rows = known_rows(run / ROWS, identity)
    done = {(row.share, row.seed, row.rule) for row in rows}
    cases = list(comparison.cases(settings))
    with console.progress("train", len(cases)) as advance:
        advance("resumed", len(rows))
        for case in cases:
            if case not in done:
                rows.append(trained_row(case, evidence, recipe, settings, training, judged))
                write_json(run / ROWS, {"identity": identity, "rows": [asdict(row) for row in rows]})
                advance(f"{case[2]} {case[0]:.0%}: {rows[-1].accuracy:.2%}")
    return rows


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a measured run.")],
    name: Annotated[str, typer.Argument(help="Of the folder under results/.")],
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")],
    images: Annotated[int | None, typer.Option(min=1, help="Training images; all by default.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="Of the connections; may be repeated. 0.1.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 3,
    settings: SetOption = None,
    split: Annotated[str, typer.Option(help="Images to judge on.")] = "validation",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Train, compare and record."""
    set_threads(threads)
    recipe = trained_recipe(run, settings or ())
    peak = recipe.training.learning_rate
    cases = ComparisonSettings(tuple(share or (0.1,)), RULES, seeds, epochs=epochs, images=images, learning_rate=peak)
    training = asdict(fine_tuning_settings(recipe.training, epochs, peak))
    found = {
        "split": split,
        "training": training,
        **comparison.as_record(cases, trained_rows(run, recipe, cases, split_name(split))),
    }
    console.out.print(console.comparison_table(found))
    told = {key: value for key, value in found.items() if key != "rows"}
    write_json(ROOT / "results" / name / ROWS, {**told, "machine": machine()})


if __name__ == "__main__":
    typer.run(main)
