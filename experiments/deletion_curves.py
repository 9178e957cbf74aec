"""What removing patches of images does to the label that a model predicts: the machinery of a deletion test.

An image is divided into one patch for each token. `TILES` are squares of the tokens' stride, all of one size, side by
side from the upper left corner. `CENTRED` patches are the pixels that are nearest to the centre of a token's receptive
field; as max-pooling shifts that by up to half a stride, those along the edges have other sizes. The pixels of a
removed patch are replaced by the training images' mean colour, or by the same image blurred with a standard deviation
of one stride.

Deletion removes the first patches of an order; what counts is the fall of the predicted label. Insertion starts from
the image without any patch and brings the first ones back; what counts is the rise. The label stays that of the whole
image.

Shape suffixes: B images, C channels, Y rows, X columns, T tokens, M masks of an image, O orders of an image, S steps,
K labels.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

TILES, CENTRED = "tiles", "centred"
MEAN, BLURRED = "mean", "blurred"
SHARES = (1 / 16, 3 / 16, 6 / 16, 10 / 16)  # of the patches that are removed, or put back
LOGIT, ABOVE_MEAN, PROBABILITY = "logit", "logit_less_mean", "probability"
MEASURES = (LOGIT, ABOVE_MEAN, PROBABILITY)  # of the predicted label; the mean is that of all labels' logits
BATCH = 16  # masks at once, so few that activations stay in a processor's caches


def patch_of_pixel(config: CCTConfig, patches: str) -> Tensor:
    """Index of the token that each pixel belongs to (Y, X), tokens row by row."""
    grid = config.token_grid
    center_Y = torch.arange(config.image_size) + 0.5
    start = {TILES: 0.0, CENTRED: grid.first_center_pixels - grid.stride_pixels / 2}[patches]
    row_Y = ((center_Y - start) / grid.stride_pixels).floor().long().clamp(0, grid.rows - 1)
    return row_Y.unsqueeze(1) * grid.columns + row_Y


def patch_centres(patch_YX: Tensor) -> Tensor:
    """Mean row and column of each patch's pixels (T, 2)."""
    rows = torch.cartesian_prod(torch.arange(patch_YX.shape[0]), torch.arange(patch_YX.shape[1])).double()
    pixels_T = torch.bincount(patch_YX.flatten())
    sums_T2 = torch.zeros(len(pixels_T), 2, dtype=torch.float64).index_add_(0, patch_YX.flatten(), rows)
    return sums_T2 / pixels_T.unsqueeze(1)


def filling(images_BCYX: Tensor, fill: str, stride: int) -> Tensor:
    """What stands in removed patches (B, C, Y, X): zero, which is the mean colour of normalised images, or a blur."""
    if fill == MEAN:
        return torch.zeros_like(images_BCYX)
    return torch.from_numpy(gaussian_filter(images_BCYX.numpy(), (0, 0, stride, stride), mode="nearest"))


def logits_without(
    model: CCT, image_CYX: Tensor, fill_CYX: Tensor, patch_YX: Tensor, removed_MT: Tensor, batch: int = BATCH
) -> Tensor:
    """Logits (M, K) of one image, under each mask without the patches that it removes; equal masks run once."""
    distinct_MT, place_M = torch.unique(removed_MT, dim=0, return_inverse=True)
    logits = []
    with torch.inference_mode():
        for some_MT in distinct_MT.split(batch):
            masked_MCYX = torch.where(some_MT[:, patch_YX].unsqueeze(1), fill_CYX, image_CYX)
            logits.append(model(masked_MCYX.contiguous(memory_format=torch.channels_last))[0])
    return torch.cat(logits)[place_M]


def steps(tokens: int, shares: Sequence[float] = SHARES) -> list[int]:
    """How many patches each share is, at least one."""
    return [max(1, round(share * tokens)) for share in shares]


def first_patches(rank_OT: Tensor, steps_S: Sequence[int]) -> Tensor:
    """Which patches are among the first of each order at each step, Boolean (O, S, T)."""
    return rank_OT.unsqueeze(1) < torch.tensor(steps_S).view(1, -1, 1)


def values(logits_MK: Tensor, label: int) -> dict[str, NDArray[np.float64]]:
    """What is measured of one label under each mask (M,)."""
    logits_MK = logits_MK.double()
    return {
        LOGIT: logits_MK[:, label].numpy(),
        ABOVE_MEAN: (logits_MK[:, label] - logits_MK.mean(1)).numpy(),
        PROBABILITY: logits_MK.softmax(1)[:, label].numpy(),
    }


def ranks(scores_OT: Tensor, generator: torch.Generator) -> Tensor:
    """Place of each patch in the order that starts with the largest score (O, T); equal scores in random order."""
    shuffle_OT = torch.rand(scores_OT.shape, generator=generator).argsort(1)
    shuffled_OT = scores_OT.gather(1, shuffle_OT)
    order_OT = shuffle_OT.gather(1, shuffled_OT.argsort(dim=1, descending=True, stable=True))
    return order_OT.argsort(1)


def curves_of_image(
    logits: Callable[[Tensor], Tensor], rank: Mapping[str, Tensor], label: int, put_back: bool
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Of each measure `fall_NMS` and `rise_NMS`, of one image (M, S), and `whole_N` (), the fall without any patch.

    Args:
        logits: of masks (M, T) that say what is removed.
        rank: orders of the patches (O, T) by method; the mean over its orders is a method's.
        put_back: whether patches are also put back into an empty image; without, there is no rise.
    """
    rank_OT = torch.cat(list(rank.values()))
    tokens = rank_OT.shape[1]
    first_OST = first_patches(rank_OT, steps(tokens))
    removed_WOST = torch.stack((first_OST, ~first_OST) if put_back else (first_OST,))
    none_and_all_2T = torch.tensor([[False], [True]]).expand(-1, tokens)
    measured = values(logits(torch.cat((none_and_all_2T, removed_WOST.flatten(0, 2)))), label)
    borders = np.cumsum([len(orders_OT) for orders_OT in rank.values()])[:-1]

    def of_methods(of_orders_OS: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([orders_OS.mean(0) for orders_OS in np.split(of_orders_OS, borders)])

    curves = {}
    for name, of_masks in measured.items():
        whole, empty = of_masks[:2]
        without_OS, *with_OS = of_masks[2:].reshape(removed_WOST.shape[:3])
        curves[name] = {"fall_NMS": of_methods(whole - without_OS), "whole_N": whole - empty}
        if with_OS:
            curves[name]["rise_NMS"] = of_methods(with_OS[0] - empty)
    return curves


def area(curve_NMS: NDArray[np.float64], whole_N: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.float64]:
    """Mean of each image's curves over the share of the patches (N, M), from zero at share 0 to `whole` at 1."""
    none_NM1 = np.zeros_like(curve_NMS[..., :1])
    full_NMS = np.concatenate((none_NM1, curve_NMS, none_NM1 + whole_N[:, None, None]), -1)
    return np.asarray(np.trapezoid(full_NMS, (0.0, *shares, 1.0), axis=-1))
