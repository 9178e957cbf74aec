"""Refitting of a convolution to the filters that are left."""

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.pruning.refit import collect_patches, refitted
from torch import Tensor, nn
from torch.nn import functional


@pytest.fixture(scope="module")
def model() -> CCT:
    """A random model with two convolutions before the last."""
    return support.random_model(support.convolved(support.small_config()))


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    """Random images."""
    return support.random_images(torch.zeros(200, dtype=torch.long), side=16)


def outputs(model: CCT, images: LabelledImages, weight: Tensor) -> Tensor:
    """What the second convolution makes of the first one's maps with another weight."""
    with torch.no_grad():
        _, activations = model(images.normalised(slice(None)))
        return functional.conv2d(activations["filters.0"], weight, padding=1)


def second(model: CCT) -> nn.Conv2d:
    """The second convolution."""
    conv = model.layer("tokenizer.conv_layers.1.0")
    assert isinstance(conv, nn.Conv2d)
    return conv


def test_refit_is_nearer_than_leaving_the_weights(model: CCT, images: LabelledImages) -> None:
    """Without half of the filters, the fitted weights miss the former outputs by less than the old ones do."""
    conv, kept_C = second(model), torch.arange(8) < 4
    fitted = refitted(conv, collect_patches(model, images)["filters.0"], kept_C)
    assert not fitted[:, ~kept_C].any()
    before = outputs(model, images, conv.weight)
    left = conv.weight * kept_C.view(1, -1, 1, 1)
    error, error_left = ((outputs(model, images, weight) - before).square().mean() for weight in (fitted, left))
    assert error < 0.9 * error_left


def test_filter_that_is_the_double_of_another_is_removed_at_no_cost(images: LabelledImages) -> None:
    """What a kept filter gives too is won back whole."""
    model = support.random_model(support.convolved(support.small_config()))
    with torch.no_grad():
        first = model.layer("tokenizer.conv_layers.0.0")
        first.weight[3] = 2.0 * first.weight[5]
    conv, kept_C = second(model), torch.arange(8) != 3
    fitted = refitted(conv, collect_patches(model, images)["filters.0"], kept_C)
    assert torch.allclose(outputs(model, images, fitted), outputs(model, images, conv.weight), atol=1e-3)


def test_filters_that_never_fire_do_not_stop_the_fit(images: LabelledImages) -> None:
    """Moments that no inverse exists of give finite weights."""
    model = support.random_model(support.convolved(support.small_config()))
    with torch.no_grad():
        model.layer("tokenizer.conv_layers.0.0").weight[:2] = 0.0
    fitted = refitted(second(model), collect_patches(model, images)["filters.0"], torch.arange(8) < 5)
    assert fitted.isfinite().all()


def test_patches_are_drawn_alike_each_time_and_bounded(model: CCT, images: LabelledImages) -> None:
    """The same images give the same moments; a model without convolutions before the last has none."""
    once, again = collect_patches(model, images), collect_patches(model, images)
    assert set(once) == {"filters.0", "filters.1"}
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert [len(moments) for moments in once.values()] == [8 * 9, 12 * 9]
    assert collect_patches(support.random_model(), images) == {}
