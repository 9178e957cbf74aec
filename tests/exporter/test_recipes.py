"""The table of recipes."""

import torch

from exporter.cct import CCT
from exporter.datasets import DATASETS, load
from exporter.recipes import RECIPES


def test_every_data_set_has_a_recipe_that_fits_it() -> None:
    """Image size, channels and labels of the model are those of the data set it is named for."""
    assert set(RECIPES) == set(DATASETS)
    for name, recipe in RECIPES.items():
        assert recipe.dataset == name
        dataset, config = load(name), recipe.model()
        assert config.labels == len(dataset.label_names)
        assert dataset.train.images_NYXC.shape[1:] == (config.image_size, config.image_size, config.channels)
        assert (
            CCT(config)
            .eval()(torch.zeros(1, config.channels, config.image_size, config.image_size))[0]
            .isfinite()
            .all()
        )
