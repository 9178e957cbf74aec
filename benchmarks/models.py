"""The recipes' models with random weights: no operation that is timed depends on values."""

from typing import Annotated

import typer
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.recipes import RECIPES, Recipe

# Pixels a side, channels and labels of each kind of data set.
SIZES = {"digits": (8, 1, 10), "cifar100": (32, 3, 100), "flowers102": (64, 3, 102)}
TIMED = [name for name, make in RECIPES.items() if make().dataset in SIZES]
NORMALISATION = (0.5, 0.25)  # mean and deviation of every channel


def _checked_recipe(name: str) -> str:
    if name not in TIMED:
        raise typer.BadParameter(f"expected one of {', '.join(TIMED)}, found {name!r}")
    return name


RecipeOption = Annotated[
    str, typer.Option("--recipe", callback=_checked_recipe, help=f"Whose model: {', '.join(TIMED)}.")
]


def model_config(recipe: Recipe) -> CCTConfig:
    """The recipe's model for the images that it is for."""
    side, channels, labels = SIZES[recipe.dataset]
    return recipe.model.config(recipe.image_size or side, channels, labels)
