"""Silent heads: what removal with a folded mean leaves, for each image by itself."""

from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.export.attribution import Classify
from headwise_exporter.export.silencing import MEAN_IMAGES, SilencedHeads, mean_heads
from headwise_exporter.model.cct import CCT
from headwise_exporter.pruning.compaction import KeptEncoder, KeptUnits, mask_units, remove_masked
from headwise_exporter.pruning.criteria import collect_moments, mean_activations

SHAPES = support.PRUNED_SHAPES


def silencing(model: CCT) -> SilencedHeads:
    """The module, with random means."""
    return SilencedHeads(support.random_split(model).normalise, model, support.random_means(model)).eval()


def without(units: KeptEncoder, head: int) -> KeptEncoder:
    """The units of an encoder without those of a head."""
    kept = [index for index in range(len(units.heads)) if index != head]
    query_key, value = (tuple(of_heads[index] for index in kept) for of_heads in (units.query_key, units.value))
    return replace(units, heads=tuple(kept), query_key=query_key, value=value)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_silent_head_is_a_removed_one_whose_mean_was_folded(shape: str) -> None:
    """Each head alone, to 1e-5 of the logits of the compacted model without it."""
    config = SHAPES[shape]
    model, images = support.random_model(config), support.random_pixels(config)
    module, everything = silencing(model), KeptUnits.all(config)
    means = {f"encoders.{index}.heads": mean_V for index, mean_V in support.random_means(model).items()}
    means |= {group.name: torch.zeros(group.units) for group in model.unit_groups() if group.name not in means}
    pairs = [(index, head) for index, encoder in enumerate(config.encoders) for head in range(encoder.heads)]
    for row, (index, head) in enumerate(pairs):
        encoders = [
            without(units, head) if index == other else units for other, units in enumerate(everything.encoders)
        ]
        kept = KeptUnits(everything.filters, tuple(encoders))
        removed = Classify(module.normalise, remove_masked(mask_units(model, kept, means), kept))(images)
        silent_BR = torch.zeros(len(images), len(pairs), dtype=torch.bool)
        silent_BR[:, row] = True
        assert float((module(images, silent_BR) - removed).abs().max()) < 1e-5 * float(removed.abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_without_a_silent_head_the_logits_are_those_of_classify(shape: str) -> None:
    """Exactly."""
    config = SHAPES[shape]
    model, images = support.random_model(config), support.random_pixels(config)
    module = silencing(model)
    heads = sum(encoder.heads for encoder in config.encoders)
    logits = module(images, torch.zeros(len(images), heads, dtype=torch.bool))
    assert torch.equal(logits, Classify(module.normalise, model)(images))


@torch.no_grad()
def test_each_image_has_silent_heads_of_its_own() -> None:
    """The logits of an image are those that it has alone, with its own heads silent; they differ from others'."""
    model, images = support.random_model().double(), support.random_pixels(support.SMALL)
    module = silencing(model).double()
    silent_BR = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    together = module(images, silent_BR)
    for index in range(5):
        torch.testing.assert_close(module(images[[index]], silent_BR[[index]]), together[[index]])
    others = module(images, silent_BR.roll(1, 0))
    assert float((others - together).abs().amax(1).min()) > 1e-3


@pytest.mark.parametrize("shape", ["uneven", "without some sub-blocks"])
def test_means_are_those_that_removal_folds(shape: str) -> None:
    """Over the same images, to rounding."""
    model, data = support.random_model(SHAPES[shape]), support.random_images(torch.arange(20) % 10)
    expected = mean_activations(collect_moments(model, data))
    means = mean_heads(model, data)
    assert [*means] == [index for index, encoder in enumerate(SHAPES[shape].encoders) if encoder.heads]
    for index, mean_V in means.items():
        torch.testing.assert_close(mean_V, expected[f"encoders.{index}.heads"], rtol=1e-5, atol=1e-6)


def test_means_rest_on_a_bounded_number_of_images() -> None:
    """Always the same ones: more images than that give the means of a sample."""
    model, data = support.random_model(), support.random_images(torch.arange(MEAN_IMAGES + 40) % 10)
    means, of_sample = mean_heads(model, data), mean_heads(model, data.sample(MEAN_IMAGES))
    for index, mean_V in means.items():
        assert torch.equal(mean_V, of_sample[index])
