"""What a training starts from."""

from dataclasses import replace

import support
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.model.shipped import RANDOM
from headwise_exporter.recipes import digits
from headwise_exporter.stages.start import model_config, start


def test_model_has_the_size_channels_and_labels_of_the_images() -> None:
    """Digits: 8 px, one channel, ten labels."""
    config = model_config(support.small_recipe(), load(DatasetSettings("digits")))
    assert (config.image_size, config.channels, config.labels) == (8, 1, 10)


def test_recipes_weights_are_taken_unless_others_are_asked_for() -> None:
    """Or they do not fit the changed model, which is said."""
    recipe = replace(digits(), start="checkpoint:digits")
    config = recipe.model.config(8, 1, 10)
    assert start(recipe, config, None)[0] == "checkpoint:digits"
    assert start(recipe, config, "own.safetensors") == ("own.safetensors", "")
    assert start(recipe, config, RANDOM) == (None, "")
    assert start(digits(), config, None) == (None, "")
    other = replace(recipe.model, width=64)
    weights, remark = start(recipe, other.config(8, 1, 10), None)
    assert weights is None
    assert "checkpoint:digits, where this recipe starts, does not fit" in remark
