"""The table of recipes."""

import json
from dataclasses import asdict

import pytest
import torch
from headwise_exporter.data.datasets import DATASETS
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import cct_7_3x1, cct_7_7x2, count_macs
from headwise_exporter.recipes import DEFAULTS, RECIPES, RecipeError, describe, find_recipe, from_record


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_gives_a_model_for_its_data_set(name: str) -> None:
    """The model takes images of the data set's size and gives a finite logit for each label."""
    recipe = RECIPES[name]()
    source = DATASETS[recipe.dataset]
    config = recipe.model.config(recipe.image_size or source.image_size, 3, 5)
    images = torch.zeros(1, 3, config.image_size, config.image_size)
    assert CCT(config).eval()(images)[0].isfinite().all()
    assert recipe.protocol is None or recipe.protocol in source.protocols


def test_kind_of_data_set_without_a_default_says_so() -> None:
    """A recipe that is added does not become a default by itself, and one that is missing is a clear error."""
    with pytest.raises(RecipeError, match=r"expected a recipe for mnist \(there is none\), found none that is its def"):
        find_recipe("mnist")
    assert set(DEFAULTS) == set(DATASETS)


def test_every_kind_of_data_set_has_a_recipe() -> None:
    """Without a name there is one for each, with a GPU and without; a GPU gets no smaller model."""
    for kind in DATASETS:
        small, large = (find_recipe(kind, has_gpu=has_gpu)[1] for has_gpu in (False, True))
        assert small.dataset == large.dataset == kind
        sizes = [recipe.image_size or DATASETS[kind].image_size for recipe in (small, large)]
        macs = [
            count_macs(recipe.model.config(size, 3, 10)) for recipe, size in zip((small, large), sizes, strict=True)
        ]
        assert macs[0] <= macs[1]


def test_reference_models_are_the_references() -> None:
    """CCT-7/3x1 and CCT-7/7x2 as published."""
    assert RECIPES["cct_7_3x1"]().model.config(32, 3, 100) == cct_7_3x1()
    assert RECIPES["cct_7_7x2"]().model.config(224, 3, 102) == cct_7_7x2()


@pytest.mark.parametrize("name", RECIPES)
def test_description_has_the_recipes_result_or_that_it_was_not_run(name: str) -> None:
    """A result is a percentage with its number of runs."""
    text = describe(name)
    assert "not run yet" in text.lower() or "not measured" in text.lower() or ("%" in text and "n = " in text)


def test_unknown_recipe_lists_those_for_the_data_set() -> None:
    """For a name that does not exist, and for the recipe of another data set."""
    for name in ("resnet", "digits"):
        with pytest.raises(
            RecipeError, match=rf"recipe for cifar100 \(cct_7_3x1, cifar100_cpu, cifar100_taught\), found '{name}'"
        ):
            find_recipe("cifar100", name)


@pytest.mark.parametrize("name", RECIPES)
def test_record_without_early_stopping_is_read_as_a_training_without(name: str) -> None:
    """Runs that were trained before the setting came stay what they are."""
    record = asdict(RECIPES[name]())
    del record["training"]["patience_epochs"]
    assert from_record(record).training.patience_epochs == 0


def test_early_stopping_is_for_folders_alone() -> None:
    """The recipes whose results are recorded train all their epochs."""
    assert [name for name, make in RECIPES.items() if make().training.patience_epochs] == ["folder"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_the_record_of_a_run(name: str) -> None:
    """`from_record` is the inverse of `asdict`, also through JSON; a record of another release is refused."""
    recipe = RECIPES[name]()
    assert from_record(json.loads(json.dumps(asdict(recipe)))) == recipe
    with pytest.raises(RecipeError, match="another release"):
        from_record({"dataset": "digits"})
