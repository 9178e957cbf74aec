"""The options of the command `exporter`, each with its help, and the settings that they come to together."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from headwise_exporter.commands import console
from headwise_exporter.data import datasets
from headwise_exporter.data.base import DatasetSettings, SplitName
from headwise_exporter.nodes.findings import FindingsSettings
from headwise_exporter.pruning import andc, connections
from headwise_exporter.pruning.criteria import CRITERIA
from headwise_exporter.pruning.prune import AUTO, LITERAL, RULES
from headwise_exporter.recipes import PruneSettings, Recipe, RecipeError, find_recipe, override
from headwise_exporter.studies.comparison import ComparisonSettings
from headwise_exporter.studies.subsets import SubsetSettings

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(f"expected letters, digits, '.', '_' and '-', found {name!r}")
    return name


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
    str | None, typer.Option("--init", help="Weights to start from: .safetensors, .pth or checkpoint:NAME.")
]
EpochsOption = Annotated[
    int | None, typer.Option(min=0, help="As --set training.epochs=N; 0 takes the weights of --init as they are.")
]
SeedOption = Annotated[int | None, typer.Option(min=0, help="As --set training.seed=N.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
RuleOption = Annotated[
    str | None, typer.Option(help=f"Connections that masks keep: {AUTO} (the best on validation), {', '.join(RULES)}.")
]
ThresholdOption = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="At which a field counts as recognition.")
]
KeepOption = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="Share of each masked layer's connections to keep, whatever threshold that takes."
    ),
]
CriterionOption = Annotated[
    str | None,
    typer.Option(help=f"What chooses the units to remove: {AUTO} (the best on validation), {', '.join(CRITERIA)}."),
]
ShareOption = Annotated[
    float | None, typer.Option(min=0.01, max=1.0, help="Share that each encoder keeps; the recipe's by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SharesOption = Annotated[
    list[float] | None,
    typer.Option(
        "--share", min=0.0, max=1.0, help="Kept of each layer's connections; may be repeated. Four by default."
    ),
]
ConnectionRulesOption = Annotated[
    list[str] | None, typer.Option("--by", help=f"May be repeated: {', '.join(connections.RULES)}. All by default.")
]
LayersOption = Annotated[
    str | None, typer.Option("--rule", help=f"Masked layers, by ANDC's rules: {', '.join(andc.RULES)}.")
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Fine-tuning runs and random masks of each.")]
ImagesOption = Annotated[int | None, typer.Option(min=1, help="Training images of each fine-tuning; all by default.")]
FineTuningEpochsOption = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Of each fine-tuning; the recipe's by default.")
]
SubsetLabelsOption = Annotated[int, typer.Option("--labels", min=2, help="Labels of each subset.")]
SubsetsOption = Annotated[int, typer.Option("--subsets", min=1, help="Random subsets.")]
FindingsSplitOption = Annotated[
    str | None, typer.Option("--split", help="Images to find figures on: validation (the recipe's), test or train.")
]
DrawsOption = Annotated[int | None, typer.Option(min=1, help="Of the bootstrap; the recipe's by default.")]
ProbeSeedsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Trainings of the probes; those after the first say how far experts agree. The recipe's by default."
    ),
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


def pruned_by(
    recipe: Recipe,
    *,
    rule: str | None,
    threshold: float | None,
    keep: float | None,
    criterion: str | None,
    **shares: float | None,  # kept, by the names of `Budget`
) -> Recipe:
    """The recipe with what the command line says of pruning; checked before anything is trained."""
    options = {"rule": rule, "threshold": threshold, "keep": keep, "criterion": criterion}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    budget = replace(recipe.prune.budget, **{name: share for name, share in shares.items() if share is not None})
    changed = replace(recipe.prune, budget=budget, **given)
    _check_known("rule", changed.rule, (AUTO, *RULES))
    _check_known("criterion", changed.criterion, (AUTO, *CRITERIA))
    return replace(recipe, prune=changed)


def findings_settings(
    settings: FindingsSettings, split: str | None, draws: int | None, probe_seeds: int | None
) -> FindingsSettings:
    """The settings with what the command line says otherwise."""
    return FindingsSettings(
        settings.split if split is None else split_name(split),
        draws or settings.draws,
        probe_seeds or settings.probe_seeds,
    )


def comparison_settings(
    settings: PruneSettings,
    shares: list[float] | None,
    by: list[str] | None,
    seeds: int,
    rule: str | None,
    images: int | None,
    epochs: int | None,
) -> ComparisonSettings:
    """What the command line asks to be compared; ANDC is always among the rules."""
    _check_known("rule", rule or LITERAL, andc.RULES)
    rules = by or connections.RULES
    for name in rules:
        _check_known("by", name, connections.RULES)
    return ComparisonSettings(
        tuple(shares or ComparisonSettings.shares),
        (connections.ANDC, *(name for name in rules if name != connections.ANDC)),
        seeds,
        andc.rule_named(rule or LITERAL),
        epochs or settings.epochs,
        images or settings.images,
        settings.batch_size,
        settings.learning_rate,
    )


def subset_settings(known: int, labels: int, subsets: int) -> SubsetSettings:
    """What the command line asks for, of a data set with so many labels."""
    if labels > known:
        told = f"expected at most the data set's {known} labels, found {labels}"
        raise typer.BadParameter(told, param_hint="--labels")
    return SubsetSettings(labels=labels, subsets=subsets)


def split_name(split: str) -> SplitName:
    """The split of that name."""
    known: tuple[SplitName, ...] = ("train", "validation", "test")
    matched = next((name for name in known if name == split), None)
    if matched is None:
        raise typer.BadParameter(f"expected train, validation or test, found {split!r}", param_hint="--split")
    return matched


def chosen_recipe(
    name: str,
    data_dir: Path | None,
    protocol: str | None,
    image_size: int | None,
    recipe: str | None,
    settings: Sequence[str] | None,
    epochs: int | None,
    seed: int | None,
) -> tuple[DatasetSettings, Recipe]:
    """Data set and recipe that the command line asks for; protocol and size are the recipe's unless given."""
    asked = dataset_settings(name, data_dir, protocol, image_size)
    found, plain = find_recipe(asked.kind, recipe, has_gpu=torch.cuda.is_available())
    console.err.print(f"recipe: {found}", highlight=False)
    shortcuts = {"training.epochs": epochs, "training.seed": seed}
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    chosen = override(plain, [*given, *(settings or ())])
    if chosen.dataset != asked.kind:
        raise RecipeError(f"expected --dataset to name the data set, found --set dataset={chosen.dataset}.")
    return replace(asked, protocol=protocol or chosen.protocol, image_size=image_size or chosen.image_size), chosen
