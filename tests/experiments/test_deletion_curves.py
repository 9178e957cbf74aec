"""Patches, their removal, and what methods are compared by."""

from dataclasses import replace
from functools import partial

import deletion_curves
import numpy as np
import pytest
import support
import torch
from deletion_curves import CENTRED, LOGIT, SHARES, TILES
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig, cct_7_7x2
from hypothesis import given
from hypothesis import strategies as st

SIXTEEN_TOKENS = replace(support.convolved(support.small_config()), image_size=32)
CONFIGS = (support.small_config(), SIXTEEN_TOKENS, replace(cct_7_7x2(64), channels=1, width=8))


def image_of(config: CCTConfig, seed: int = 0) -> torch.Tensor:
    """A random image (1, C, Y, X)."""
    shape = (1, config.channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.tokens} tokens")
def test_tiles_are_squares_of_one_stride(config: CCTConfig) -> None:
    """As many as there are tokens, row by row."""
    patch_YX = deletion_curves.patch_of_pixel(config, TILES)
    stride = config.token_grid.stride_pixels
    assert torch.bincount(patch_YX.flatten()).tolist() == [stride**2] * config.tokens
    assert (patch_YX[0, 0], patch_YX[0, stride], patch_YX[stride, 0]) == (0, 1, config.map_sides[-1])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.tokens} tokens")
def test_centred_patches_are_of_the_nearest_token(config: CCTConfig) -> None:
    """In rows and in columns alike."""
    patch_YX, side = deletion_curves.patch_of_pixel(config, CENTRED), config.map_sides[-1]
    centers_S = config.token_grid.first_center_pixels + config.token_grid.stride_pixels * torch.arange(side)
    away_YS = (torch.arange(config.image_size).unsqueeze(1) + 0.5 - centers_S).abs()
    chosen_Y = patch_YX[:, 0] // side
    torch.testing.assert_close(away_YS.gather(1, chosen_Y.unsqueeze(1)).squeeze(1), away_YS.min(1).values)
    assert torch.equal(patch_YX.T // side, patch_YX % side)


def test_centres_of_patches_are_means_of_their_pixels() -> None:
    """Four tiles of 4 x 4 pixels."""
    patch_YX = torch.arange(2).repeat_interleave(4).unsqueeze(1) * 2 + torch.arange(2).repeat_interleave(4)
    assert deletion_curves.patch_centres(patch_YX).tolist() == [[1.5, 1.5], [1.5, 5.5], [5.5, 1.5], [5.5, 5.5]]


@pytest.mark.parametrize("fill", [deletion_curves.MEAN, deletion_curves.BLURRED])
def test_removed_pixels_are_those_of_the_filling(fill: str) -> None:
    """All others stay; nothing removed gives the image's logits, all removed those of the filling."""
    model = support.random_model(SIXTEEN_TOKENS)
    image = image_of(SIXTEEN_TOKENS)
    filled = deletion_curves.filling(image, fill, 8)
    patch_YX = deletion_curves.patch_of_pixel(SIXTEEN_TOKENS, TILES)
    removed_MT = torch.zeros(4, 16, dtype=torch.bool)
    removed_MT[1] = True
    removed_MT[2:, 5] = True
    mixed = image.clone()
    mixed[..., 8:16, 8:16] = filled[..., 8:16, 8:16]
    expected_MK = model(torch.cat((image, filled, mixed, mixed)))[0].detach()
    logits_MK = deletion_curves.logits_without(model, image[0], filled[0], patch_YX, removed_MT)
    torch.testing.assert_close(logits_MK, expected_MK, atol=1e-4, rtol=1e-4)


def test_blur_keeps_the_colour_and_takes_the_detail() -> None:
    """By a standard deviation of one stride; a plain image stays as it is."""
    plain = torch.ones(1, 1, 32, 32)
    torch.testing.assert_close(deletion_curves.filling(plain, deletion_curves.BLURRED, 8), plain)
    assert deletion_curves.filling(image_of(SIXTEEN_TOKENS), deletion_curves.BLURRED, 8).std() < 0.1


def test_largest_score_comes_first_and_equal_scores_in_random_order() -> None:
    """Three equal scores come in each of their six orders; the others stay where they are."""
    scores_OT = torch.tensor([0.5, 2.0, 0.5, -1.0, 0.5]).expand(60, -1)
    ranks_OT = deletion_curves.ranks(scores_OT, torch.Generator().manual_seed(0))
    assert set(ranks_OT[:, 1].tolist()) == {0}
    assert set(ranks_OT[:, 3].tolist()) == {4}
    assert len({tuple(row) for row in ranks_OT.tolist()}) == 6


def test_shares_are_whole_patches_of_any_grid() -> None:
    """The same of 16 tokens as of 64; never none."""
    assert deletion_curves.steps(16) == [1, 3, 6, 10]
    assert deletion_curves.steps(64) == [4, 12, 24, 40]
    assert deletion_curves.steps(4)[0] == 1


def test_area_of_a_straight_line_is_half_of_its_end() -> None:
    """Whatever the shares are."""
    curve_NMS = np.array(SHARES) * np.array([2.0, 6.0])[:, None, None]
    np.testing.assert_allclose(deletion_curves.area(curve_NMS, np.array([2.0, 6.0]), SHARES), [[1.0], [3.0]])


@given(st.lists(st.floats(-4, 4), min_size=16, max_size=16), st.randoms())
def test_oracle_of_a_linear_model_is_the_best_order_and_its_reverse_the_worst(
    contributions: list[float], shuffle: st.DataObject
) -> None:
    """Removed or put back, at every step; any other order is in between."""
    contribution_T = torch.tensor(contributions, dtype=torch.float64)
    order = list(range(16))
    shuffle.shuffle(order)
    generator = torch.Generator().manual_seed(0)
    scores = {"oracle": contribution_T, "other": torch.tensor(order), "reversed": -contribution_T}
    rank = {name: deletion_curves.ranks(scores_T.unsqueeze(0), generator) for name, scores_T in scores.items()}

    def logits(removed_MT: torch.Tensor) -> torch.Tensor:
        kept_M = (~removed_MT).double() @ contribution_T
        return torch.stack((kept_M, torch.zeros_like(kept_M)), 1)

    curves = deletion_curves.curves_of_image(logits, rank, 0, put_back=True)[LOGIT]
    for name in ("fall_NMS", "rise_NMS"):
        oracle_S, other_S, reversed_S = curves[name]
        assert (oracle_S >= other_S - 1e-9).all()
        assert (other_S >= reversed_S - 1e-9).all()
    np.testing.assert_allclose(curves["whole_N"], sum(contributions), atol=1e-9)


def test_several_orders_of_a_method_count_as_their_mean() -> None:
    """Each order alone is what a method with one order gets."""
    model: CCT = support.random_model(SIXTEEN_TOKENS)
    image, patch_YX = image_of(SIXTEEN_TOKENS)[0], deletion_curves.patch_of_pixel(SIXTEEN_TOKENS, TILES)
    rank_OT = deletion_curves.ranks(torch.zeros(3, 16), torch.Generator().manual_seed(0))

    logits = partial(deletion_curves.logits_without, model, image, torch.zeros_like(image), patch_YX)
    rank = {"all": rank_OT} | {str(index): rank_OT[index : index + 1] for index in range(3)}
    for of_measure in deletion_curves.curves_of_image(logits, rank, 2, put_back=False).values():
        assert set(of_measure) == {"fall_NMS", "whole_N"}
        all_S, *single = of_measure["fall_NMS"]
        np.testing.assert_allclose(all_S, np.mean(single, 0), atol=1e-6)
