"""What the options of the command `exporter` come to together: data set, recipe and the settings of the studies."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import typer

from headwise_exporter.commands import console
from headwise_exporter.commands.options import SHORTCUTS
from headwise_exporter.data import datasets
from headwise_exporter.data.base import DatasetSettings, SplitName
from headwise_exporter.overrides import override
from headwise_exporter.pruning.names import ANDC, COMPARED, LAYERS, Layers
from headwise_exporter.pruning.settings import PruneSettings
from headwise_exporter.recipes import Recipe, RecipeError, find_recipe
from headwise_exporter.studies.settings import ComparisonSettings, SubsetSettings
from headwise_exporter.training.teacher_files import LAYOUTS, TeacherFile


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


def warn_of_emulated_bf16(recipe: Recipe) -> None:
    """Say that a training in bf16 is slow here, where the processor only emulates it (15 times as slow on AVX2)."""
    if recipe.training.bf16 and not torch.cuda.is_available() and not torch.cpu._is_avx512_bf16_supported():
        console.err.print(
            "[yellow]this processor emulates bf16, many times slower than float32: --set training.bf16=false",
            highlight=False,
            soft_wrap=True,
        )


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
    warn_of_emulated_bf16(recipe)
    protocol, image_size = asked.protocol or recipe.protocol, asked.image_size or recipe.image_size
    return replace(asked, protocol=protocol, image_size=image_size), recipe


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers between commas."""
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers like 0.5,0.5,0.5, found {text!r}", param_hint=f"--{option}"
        ) from None


def teacher_file(
    path: str | None, size: int | None, layout: str | None, mean: str | None, std: str | None
) -> TeacherFile | None:
    """The teacher that the command line asks for, and what it says of its input."""
    if path is None:
        stated = {"size": size, "layout": layout, "mean": mean, "std": std}
        for name in (name for name, value in stated.items() if value is not None):
            raise typer.BadParameter("expected --teacher with it, found none", param_hint=f"--teacher-{name}")
        return None
    if layout is not None:
        _check_known("teacher-layout", layout, LAYOUTS)
    axes = next((known for known in LAYOUTS if known == layout), None)
    return TeacherFile(path, size, axes, _numbers("teacher-mean", mean), _numbers("teacher-std", std))
