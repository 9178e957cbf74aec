"""What each method says of tokens, pixels and patches."""

from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.model.cct import CCT
from headwise_exporter.nodes.snp import Probe

pytest.importorskip("captum", reason="the methods of others are Captum's: pip install captum==0.9.0")
import deletion_curves
import token_scores

CONFIG = replace(support.convolved(support.small_config()), image_size=32)
PATCHES = deletion_curves.patch_of_pixel(CONFIG, deletion_curves.TILES)
DATA: LabelledImages = support.random_images(torch.arange(5), side=32)


@pytest.fixture(scope="module")
def model() -> CCT:
    """A model of 16 tokens."""
    return support.random_model(CONFIG)


@pytest.fixture(scope="module")
def images(model: CCT) -> token_scores.Images:
    """Five images with what is predicted of them."""
    normalised = DATA.normalised(slice(None))
    labels_B = model(normalised)[0].argmax(1)
    return token_scores.Images(DATA.pixels(slice(None)), normalised, labels_B, DATA.mean, DATA.std)


def logits_of_labels(model: CCT, images: token_scores.Images, normalised_BCYX: torch.Tensor) -> torch.Tensor:
    """Of the predicted labels (B,)."""
    with torch.no_grad():
        return model(normalised_BCYX)[0].gather(1, images.labels_B.unsqueeze(1)).squeeze(1)


def test_sums_of_exact_maps_are_the_split(model: CCT, images: token_scores.Images) -> None:
    """All parts, all heads, those of the last encoder, and the one head that adds most."""
    probes = [Probe(shape.heads * shape.value_dim, 10) for shape in CONFIG.encoders]
    with torch.no_grad():
        split = ExactSplit(model, probes, DATA.mean, DATA.std)(images.pixels_BYXC)
    column = torch.arange(5), images.labels_B
    heads_BR = split["heads"].transpose(1, 2)[column]
    scores = token_scores.exact_maps(model, images)
    without_biases_BK = split["logits"] - split["biases"]
    for name, expected in {
        token_scores.ALL_PARTS: without_biases_BK[column],
        token_scores.CENTRED_PARTS: without_biases_BK[column] - without_biases_BK.mean(1),
        token_scores.ALL_HEADS: heads_BR.sum(1),
        token_scores.LAST_ENCODER: heads_BR[:, -4:].sum(1),
        token_scores.STRONGEST_HEAD: heads_BR.max(1).values,
        token_scores.REVERSED: -heads_BR.sum(1),
    }.items():
        torch.testing.assert_close(scores[name].sum(1), expected, atol=1e-3, rtol=1e-4)


def test_rollout_is_a_share_of_what_is_pooled(model: CCT, images: token_scores.Images) -> None:
    """It adds up to 1 over the tokens; half of what attends to nothing in particular stays where it is."""
    scores_BT = token_scores.rollout(model, images)[token_scores.ROLLOUT]
    torch.testing.assert_close(scores_BT.sum(1), torch.ones(5))
    plain = support.random_model(CONFIG)
    with torch.no_grad():
        for encoder in plain.encoders:
            encoder.self_attn.qkv.weight.zero_()
        pooled_BT = plain(images.normalised_BCYX)[1]["pooling_weights"]
    expected_BT = pooled_BT / 4 + 0.75 / 16  # two encoders
    torch.testing.assert_close(token_scores.rollout(plain, images)[token_scores.ROLLOUT], expected_BT)


def test_grad_cam_of_the_last_encoder_is_its_formula(model: CCT, images: token_scores.Images) -> None:
    """Each channel times the mean over the tokens of its gradient, with the sign kept; the model stays as it was."""
    before = dict(model.named_modules())
    scores_BT = token_scores.grad_cam(model, images)[token_scores.GRAD_CAM]
    assert dict(model.named_modules()) == before
    kept = []
    hook = model.encoders[-1].pre_norm.register_forward_hook(lambda *called: kept.append(called[2]))
    logits_B = model(images.normalised_BCYX)[0].gather(1, images.labels_B.unsqueeze(1))
    hook.remove()
    (gradient_BTD,) = torch.autograd.grad(logits_B.sum(), kept[0])
    expected_BT = (kept[0] * gradient_BTD.mean(1, keepdim=True)).sum(-1)
    torch.testing.assert_close(scores_BT, expected_BT.detach(), atol=1e-4, rtol=1e-4)


def test_integrated_gradients_add_up(model: CCT, images: token_scores.Images) -> None:
    """To what the logit is above that of the mean colour, but for the steps of the integral."""
    scores_BYX = token_scores.integrated_gradients(model, images)[token_scores.INTEGRATED_GRADIENTS]
    empty = torch.zeros_like(images.normalised_BCYX)
    rise_B = logits_of_labels(model, images, images.normalised_BCYX) - logits_of_labels(model, images, empty)
    torch.testing.assert_close(scores_BYX.sum((1, 2)), rise_B, atol=0.1 * float(rise_B.abs().max()), rtol=0.1)


def test_gradient_times_input_is_the_change_along_the_input(model: CCT, images: token_scores.Images) -> None:
    """By a difference quotient."""
    scores_BYX = token_scores.input_x_gradient(model, images)[token_scores.INPUT_X_GRADIENT]
    double = support.random_model(CONFIG).double()
    inputs = images.normalised_BCYX.double()
    step = 1e-6
    change_B = logits_of_labels(double, images, inputs * (1 + step)) - logits_of_labels(double, images, inputs)
    torch.testing.assert_close(scores_BYX.sum((1, 2)).double(), change_B / step, atol=1e-2, rtol=1e-3)


def test_occlusion_is_the_fall_without_each_patch(model: CCT, images: token_scores.Images) -> None:
    """The same as removal of one patch at a time, whatever stands in it."""
    fill_BCYX = deletion_curves.filling(images.normalised_BCYX, deletion_curves.BLURRED, 8)
    fall_BT = token_scores.occlusion(model, images, PATCHES, fill_BCYX)
    masks_MT = torch.cat((torch.zeros(1, 16, dtype=torch.bool), torch.eye(16, dtype=torch.bool)))
    for index, label in enumerate(images.labels_B.tolist()):
        logits_MK = deletion_curves.logits_without(
            model, images.normalised_BCYX[index], fill_BCYX[index], PATCHES, masks_MT
        )
        torch.testing.assert_close(fall_BT[index], logits_MK[0, label] - logits_MK[1:, label], atol=1e-4, rtol=1e-3)


def test_scores_of_pixels_are_summed_over_patches() -> None:
    """Those of tokens stay as they are."""
    scores_BYX = torch.rand(2, 32, 32)
    summed_BT = token_scores.in_patches(scores_BYX, PATCHES)
    torch.testing.assert_close(summed_BT[:, 6], scores_BYX[:, 8:16, 16:24].sum((1, 2)))
    torch.testing.assert_close(token_scores.in_patches(summed_BT, PATCHES), summed_BT)


def test_middle_patches_are_nearest_to_the_centre() -> None:
    """The four of sixteen, alike; the corners are furthest."""
    near_T = token_scores.nearness(PATCHES)
    assert near_T.topk(4).indices.sort().values.tolist() == [5, 6, 9, 10]
    assert len(set(near_T[[5, 6, 9, 10]].tolist())) == len(set(near_T[[0, 3, 12, 15]].tolist())) == 1
    assert near_T[0] == near_T.min()


@pytest.mark.parametrize("method", [method for method in token_scores.METHODS if method != token_scores.OCCLUSION])
def test_stated_passes_are_those_that_run(
    method: str, images: token_scores.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that go through the model, for each that is explained."""
    model, counted = support.random_model(CONFIG), []
    whole = CCT.forward

    def counting(self: CCT, images_BCYX: torch.Tensor, **options: bool) -> object:
        counted.append(len(images_BCYX))
        return whole(self, images_BCYX, **options)

    monkeypatch.setattr(CCT, "forward", counting)
    sources = [source for source in token_scores.SOURCES if method in source(model, images)]
    counted.clear()
    for source in sources:
        source(model, images)
    forward = token_scores.passes(method, 16)[0]
    assert sum(counted) == forward * 5
    assert bool(sources) == bool(forward)


def test_stated_passes_of_occlusion_are_those_that_run(
    images: token_scores.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each patch, and one of the whole image."""
    model, counted = support.random_model(CONFIG), []
    whole = CCT.forward

    def counting(self: CCT, images_BCYX: torch.Tensor) -> object:
        counted.append(len(images_BCYX))
        return whole(self, images_BCYX)

    monkeypatch.setattr(CCT, "forward", counting)
    token_scores.occlusion(model, images, PATCHES, torch.zeros_like(images.normalised_BCYX))
    assert sum(counted) == 5 * token_scores.passes(token_scores.OCCLUSION, 16)[0]
