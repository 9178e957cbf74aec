"""What a training starts from: the model of a recipe, and its weights."""

from headwise_exporter.data.base import Dataset
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.model.initial_weights import fitting_checkpoints
from headwise_exporter.model.shipped import RANDOM
from headwise_exporter.recipes import Recipe


def model_config(recipe: Recipe, dataset: Dataset) -> CCTConfig:
    """The dense model for the images and labels of a data set."""
    _, side, _, channels = dataset.train.images_NYXC.shape
    return recipe.model.config(side, channels, len(dataset.label_names))


def start(recipe: Recipe, config: CCTConfig, asked: str | None) -> tuple[str | None, str]:
    """The weights to start from, None for random ones, and what there is to say where none were asked for."""
    if asked is not None or recipe.start is None:
        return None if asked == RANDOM else asked, ""
    if recipe.start in fitting_checkpoints(config):
        return recipe.start, f"; --init {RANDOM} starts from random weights"
    return None, f"initial weights are random: {recipe.start}, where this recipe starts, does not fit the changed model"
