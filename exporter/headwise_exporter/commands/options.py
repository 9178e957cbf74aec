"""The options of the command `exporter`, each with its help, and the settings that they come to together.

Every setting of a recipe can be given as `--set NAME=VALUE`. The few that have an option of their own are listed in
`SHORTCUTS`; a `--set` of the same name wins.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import torch
import typer

from headwise_exporter.commands import console
from headwise_exporter.data import datasets
from headwise_exporter.data.base import DatasetSettings, SplitName
from headwise_exporter.pruning.connections import ANDC, COMPARED, MASK_BY
from headwise_exporter.pruning.criteria import CRITERIA
from headwise_exporter.pruning.masks import LAYERS, Layers
from headwise_exporter.pruning.prune import AUTO, NONE, PruneSettings
from headwise_exporter.recipes import Recipe, RecipeError, find_recipe, override
from headwise_exporter.stages.build import RANDOM
from headwise_exporter.studies.comparison import ComparisonSettings
from headwise_exporter.studies.subsets import SubsetSettings

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
SHORTCUTS: Final = {
    "epochs": "training.epochs",
    "seed": "training.seed",
    "split": "findings.split",
    "layers": "prune.layers",
    "mask_by": "prune.mask_by",
    "criterion": "prune.criterion",
}


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(f"expected letters, digits, '.', '_' and '-', found {name!r}")
    return name


def _help(shortcut: str, text: str) -> str:
    return f"{text} As --set {SHORTCUTS[shortcut]}=VALUE."


DatasetOption = Annotated[str, typer.Option("--dataset", help=f"One of: {', '.join(datasets.NAMES)}.")]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Where downloaded data lies or is put; a folder of the cache by default.")
]
ProtocolOption = Annotated[
    str | None, typer.Option(help="How the data set is divided into its splits; its first protocol by default.")
]
ImageSizeOption = Annotated[int | None, typer.Option(help="Pixels a side; the data set's own by default.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of the run's intermediate results.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of the run.")]
OutOption = Annotated[Path, typer.Option("--out", help="Model repository to write the bundle to.")]
NameOption = Annotated[
    str | None,
    typer.Option("--name", callback=_checked_name, help="Name of the model; the data set's by default."),
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="See `exporter recipes`; the data set's by default.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE: another setting than the recipe's; may be repeated.")
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init", help=f"Weights to start from: a file, checkpoint:NAME, or {RANDOM}; the recipe's by default."
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(min=0, help=_help("epochs", "Epochs of training; 0 takes the weights of --init as they are.")),
]
SeedOption = Annotated[int | None, typer.Option(min=0, help=_help("seed", "Seed of the training."))]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
PruneLayersOption = Annotated[
    str | None,
    typer.Option(
        "--layers", help=_help("layers", f"Where masks go: {AUTO} (the best on validation), {', '.join(LAYERS)}.")
    ),
]
PruneMaskByOption = Annotated[
    str | None,
    typer.Option(
        "--mask-by",
        help=_help(
            "mask_by",
            f"What chooses the connections that masks keep: {AUTO} (the best on validation), {NONE} (no masks), "
            f"{', '.join(MASK_BY)}.",
        ),
    ),
]
CriterionOption = Annotated[
    str | None,
    typer.Option(
        help=_help(
            "criterion", f"What ranks the units to remove: {AUTO} (the best on validation), {', '.join(CRITERIA)}."
        )
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SharesOption = Annotated[
    list[float] | None,
    typer.Option(
        "--share", min=0.0, max=1.0, help="Kept of each layer's connections; may be repeated. Four by default."
    ),
]
CompareMaskByOption = Annotated[
    list[str] | None,
    typer.Option("--mask-by", help=f"May be repeated: {', '.join(COMPARED)}. All by default, and {ANDC} always."),
]
CompareLayersOption = Annotated[str, typer.Option("--layers", help=f"Where masks go: {', '.join(LAYERS)}.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Fine-tuning runs and random masks of each.")]
SubsetLabelsOption = Annotated[int, typer.Option("--labels", min=2, help="Labels of each subset.")]
SubsetsOption = Annotated[int, typer.Option("--subsets", min=1, help="Random subsets.")]
MeasureSplitOption = Annotated[
    str | None, typer.Option("--split", help=_help("split", "Images to measure on: validation, test or train."))
]
SplitOption = Annotated[str, typer.Option(help="Of the data set: train, validation or test.")]


def dataset_settings(name: str, data_dir: Path | None, protocol: str | None, image_size: int | None) -> DatasetSettings:
    """The data set that the command line asks for; checked."""
    settings = DatasetSettings(name, None if data_dir is None else str(data_dir), protocol, image_size)
    datasets.check_settings(settings)
    return settings


def _check_known(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise typer.BadParameter(f"expected one of {', '.join(known)}, found {value!r}", param_hint=f"--{option}")


def assignments(settings: Sequence[str] | None, **shortcuts: object) -> list[str]:
    """`NAME=VALUE` for each shortcut that was given, by its name in `SHORTCUTS`, and what `--set` says after them."""
    given = [f"{SHORTCUTS[name]}={value}" for name, value in shortcuts.items() if value is not None]
    return [*given, *(settings or ())]


def layers_named(name: str) -> Layers:
    """Where masks go, by its name."""
    _check_known("layers", name, LAYERS)
    return next(layers for layers in LAYERS if layers == name)


def comparison_settings(
    settings: PruneSettings, shares: list[float] | None, mask_by: list[str] | None, seeds: int, layers: str
) -> ComparisonSettings:
    """What the command line asks to be compared, fine-tuned as the recipe's pruning is; ANDC is always compared."""
    compared = mask_by or COMPARED
    for name in compared:
        _check_known("mask-by", name, COMPARED)
    return ComparisonSettings(
        shares=tuple(shares or ComparisonSettings.shares),
        mask_by=(ANDC, *(name for name in compared if name != ANDC)),
        seeds=seeds,
        layers=layers_named(layers),
        epochs=settings.epochs,
        images=settings.images,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )


def subset_settings(known: int, labels: int, subsets: int) -> SubsetSettings:
    """What the command line asks for, of a data set with so many labels."""
    if labels > known:
        message = f"expected at most the data set's {known} labels, found {labels}"
        raise typer.BadParameter(message, param_hint="--labels")
    return SubsetSettings(labels=labels, subsets=subsets)


def split_name(split: str) -> SplitName:
    """The split of that name."""
    known: tuple[SplitName, ...] = ("train", "validation", "test")
    matched = next((name for name in known if name == split), None)
    if matched is None:
        raise typer.BadParameter(f"expected train, validation or test, found {split!r}", param_hint="--split")
    return matched


def chosen_recipe(
    asked: DatasetSettings, recipe_name: str | None, given: Sequence[str]
) -> tuple[DatasetSettings, Recipe]:
    """Data set and recipe that the command line asks for; protocol and size are the recipe's where it gives none.

    Args:
        given: other settings than the recipe's (`assignments`).
    """
    name, plain = find_recipe(asked.kind, recipe_name, has_gpu=torch.cuda.is_available())
    console.err.print(f"recipe: {name}", highlight=False)
    recipe = override(plain, given)
    if recipe.dataset != asked.kind:
        raise RecipeError(f"expected --dataset to name the data set, found --set dataset={recipe.dataset}.")
    protocol, image_size = asked.protocol or recipe.protocol, asked.image_size or recipe.image_size
    return replace(asked, protocol=protocol, image_size=image_size), recipe
