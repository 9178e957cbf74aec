"""Augment training images on the device they are on, each with random parameters of its own.

    uint8 (B, Y, X, C) -> to_unit -> augment: geometry, then colour -> normalise -> erase -> mix -> the model

`prepare` is that chain. Everything is off by default; what is off neither changes an image nor draws a number.

- Geometry: crop, flip, rotation, scaling, shift and the geometric half of RandAugment are matrices. Their product is
  ONE bilinear `grid_sample` for each batch, so an image is interpolated once however many of them it meets.
- RandAugment as `rand-m9-mstd0.5-inc1` of timm, arXiv:1909.13719: each image draws its operations, levels and signs.
  An operation runs once on all images that drew it: the number of kernels does not grow with the batch.
- Erasing arXiv:1708.04896, mixup arXiv:1710.09412, cutmix arXiv:1905.04899.

Invariant: all parameters come from torch's global CPU generator, so the same state gives the same augmentation, on
any device and under any autocast; only the noise of `erase` is drawn on the device.

Limits: timm applies RandAugment's operations in the order drawn and in 8 bits; here geometry precedes colour, so the
fill meets the colour operations too, and what comes in from outside a crop is the image as far as it goes. Images are
square. Mixup and cutmix draw a share for each image, where timm's default draws one for each batch.

Why not kornia: its RandAugment draws one list of operations for a whole batch; only image by image would each have its
own. Measured 2026-11-24 by `benchmarks/augmentation_cost.py` on one of 2 cores of an AMD EPYC, float32, torch 2.13;
here the whole recipe, in kornia 0.9 all but mixup and cutmix. CPU milliseconds and share of a training step, medians
of 7 interleaved rounds, the share with its quartiles:

    | batch                     | here | kornia, batch | kornia, by image | a step | here, % of a step |
    |---------------------------|------|---------------|------------------|--------|-------------------|
    | 128 at 32 px, CCT-7/3x1   |   21 |            28 |              612 | 42,034 | 0.05 (0.05-0.05)  |
    | 128 at 32 px, CCT 4 x 128 |   14 |            20 |              600 |  8,108 | 0.18 (0.15-0.20)  |
    | 32 at 224 px, CCT-7/7x2   |  112 |           112 |              268 |  5,525 | 2.11 (1.50-2.18)  |

Shape suffixes: as in `model.cct`; S operations of an image in a row; N some of the B images; 3 homogeneous.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from headwise_exporter.data import colour

ATTEMPTS = 10  # draws of a window until one fits into the image


@dataclass(frozen=True)
class AugmentationSettings:
    """What may happen to a training image; nothing by default.

    Raises:
        ValueError: a value outside its range.
    """

    crop_area_min: float = 1.0  # share of the image's area
    crop_area_max: float = 1.0
    crop_ratio: float = 4 / 3  # width over height is log-uniform in 1/this .. this
    flip: float = 0.0  # probability of mirroring left to right
    rotation_degrees: float = 0.0  # uniform in +- this
    scaling: float = 0.0  # uniform in 1 +- this
    shift: float = 0.0  # uniform in +- this share of the side, both axes
    fill: Literal["black", "mean"] = "black"  # what comes in from outside the image; the mean is the data set's
    rand_augment_operations: int = 0  # for each image
    rand_augment_probability: float = 0.5  # that a drawn operation is carried out
    rand_augment_magnitude: float = 9.0  # of 10
    rand_augment_magnitude_std: float = 0.5  # normal about the magnitude, clipped to 0 .. 10
    erasing: float = 0.0  # probability
    erasing_area_min: float = 0.02  # share of the image's area
    erasing_area_max: float = 1 / 3
    erasing_ratio: float = 10 / 3  # height over width is log-uniform in 1/this .. this
    erasing_noise: bool = True  # normal noise for each value; else 0, which is the mean after normalisation
    mixup: float = 0.0  # alpha of the Beta distribution of an image's share
    cutmix: float = 0.0  # alpha of the Beta distribution of an image's share
    mix_switch: float = 0.5  # probability of cutmix where both are on

    def __post_init__(self) -> None:
        probabilities = ("flip", "rand_augment_probability", "erasing", "mix_switch")
        for name in (*probabilities, "scaling", "crop_area_max", "erasing_area_max"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"expected {name} in 0 .. 1, found {getattr(self, name)}")
        for name in ("rand_augment_operations", "rand_augment_magnitude_std", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of 0 (off) or more, found {getattr(self, name)}")
        for name in ("crop", "erasing"):
            low, high, ratio = (getattr(self, f"{name}_{part}") for part in ("area_min", "area_max", "ratio"))
            if not (0 < low <= high and ratio >= 1):
                raise ValueError(
                    f"expected 0 < {name}_area_min <= {name}_area_max and {name}_ratio >= 1, "
                    f"found {low}, {high} and {ratio}"
                )


class Policy(NamedTuple):
    """RandAugment's draws: for each image S operations in a row."""

    operation_SB: Tensor  # index into OPERATIONS; len(OPERATIONS): nothing
    level_SB: Tensor  # 0 .. 1
    sign_SB: Tensor  # -1 or 1


# Each with its argument at a level of 0 .. 1 and a sign, as timm's "increasing" list has it.
COLOUR: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "autocontrast": lambda images, level, sign: colour.autocontrast(images),
    "equalize": lambda images, level, sign: colour.equalize(images),
    "invert": lambda images, level, sign: colour.invert(images),
    "posterize": lambda images, level, sign: colour.posterize(images, 4 - (4 * level).floor()),
    "solarize": lambda images, level, sign: colour.solarize(images, 256 - (256 * level).floor()),
    "solarize_add": lambda images, level, sign: colour.solarize_add(images, (110 * level).floor()),
    "color": lambda images, level, sign: colour.color(images, 1 + 0.9 * level * sign),
    "contrast": lambda images, level, sign: colour.contrast(images, 1 + 0.9 * level * sign),
    "brightness": lambda images, level, sign: colour.brightness(images, 1 + 0.9 * level * sign),
    "sharpness": lambda images, level, sign: colour.sharpness(images, 1 + 0.9 * level * sign),
}
# The largest of each: radians; pixels a pixel; of affine_grid's side, which is 2.
GEOMETRIC = {
    "rotate": math.radians(30),
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 2 * 0.45,
    "translate_y": 2 * 0.45,
}
OPERATIONS = (*COLOUR, *GEOMETRIC)


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape)


def draw_policy(batch: int, settings: AugmentationSettings) -> Policy:
    """RandAugment's draws for a batch. Source: timm's `rand-m<magnitude>-mstd<std>-inc1`."""
    shape = (settings.rand_augment_operations, batch)
    operation_SB = torch.randint(len(OPERATIONS), shape)
    operation_SB[torch.rand(shape) >= settings.rand_augment_probability] = len(OPERATIONS)
    level_SB = settings.rand_augment_magnitude + settings.rand_augment_magnitude_std * torch.randn(shape)
    return Policy(operation_SB, level_SB.clamp_(0.0, 10.0) / 10, torch.randint(2, shape) * 2.0 - 1)


def recolour(images_BCYX: Tensor, policy: Policy) -> Tensor:
    """Carry out a policy's colour operations in their order; images (B, C, Y, X) in 0 .. 1.

    Raises:
        ValueError: neither one channel nor three.
    """
    images_BCYX = images_BCYX.clone()
    for operation_B, level_B, sign_B in zip(*policy, strict=True):
        # Sorted by operation on the CPU, where the groups' sizes are known without waiting for the device.
        order_B = operation_B.argsort(stable=True)
        sizes = torch.bincount(operation_B, minlength=len(OPERATIONS) + 1).tolist()
        ordered = (order_B, level_B[order_B].view(-1, 1, 1, 1), sign_B[order_B].view(-1, 1, 1, 1))
        groups = zip(*(values.to(images_BCYX.device).split(sizes) for values in ordered), strict=True)
        for operation, (chosen_N, level_N111, sign_N111) in zip(COLOUR.values(), groups, strict=False):
            if len(chosen_N):
                images_BCYX[chosen_N] = operation(images_BCYX[chosen_N], level_N111, sign_N111)
    return images_BCYX


# Geometry. Matrices map a place in the result to one in the source, both in -1 .. 1.


def _matrices(*entries_B: Tensor) -> Tensor:
    """Matrices (B, 3, 3) of their upper two rows."""
    zero_B, one_B = torch.zeros_like(entries_B[0]), torch.ones_like(entries_B[0])
    return torch.stack((*entries_B, zero_B, zero_B, one_B), 1).view(-1, 3, 3)


def _windows(batch: int, area_min: float, area_max: float, ratio: float) -> tuple[Tensor, Tensor]:
    """Two sides of a window in each image, as shares of the image's: the first draw that fits, or the whole image."""
    area_AB = _uniform(area_min, area_max, ATTEMPTS, batch)
    ratio_AB = _uniform(-math.log(ratio), math.log(ratio), ATTEMPTS, batch).exp()
    sides = (area_AB * ratio_AB).sqrt(), (area_AB / ratio_AB).sqrt()
    fits_AB = (sides[0] <= 1) & (sides[1] <= 1)
    first_1B = fits_AB.int().argmax(0, keepdim=True)
    first, second = (side.gather(0, first_1B)[0].masked_fill(~fits_AB.any(0), 1.0) for side in sides)
    return first, second


def _crops(batch: int, settings: AugmentationSettings) -> Tensor:
    width_B, height_B = _windows(batch, settings.crop_area_min, settings.crop_area_max, settings.crop_ratio)
    x_B, y_B = ((2 * torch.rand(batch) - 1) * (1 - side_B) for side_B in (width_B, height_B))  # centres
    zero_B = torch.zeros(batch)
    return _matrices(width_B, zero_B, x_B, zero_B, height_B, y_B)


def _flips(batch: int, probability: float) -> Tensor:
    zero_B, one_B = torch.zeros(batch), torch.ones(batch)
    return _matrices(torch.where(torch.rand(batch) < probability, -1.0, 1.0), zero_B, zero_B, zero_B, one_B, zero_B)


def _affines(batch: int, settings: AugmentationSettings) -> Tensor:
    angle_B, scale_B, x_B, y_B = torch.rand(4, batch) * 2 - 1
    angle_B = angle_B * math.radians(settings.rotation_degrees)
    scale_B = 1 + scale_B * settings.scaling
    cos_B, sin_B = angle_B.cos() * scale_B, angle_B.sin() * scale_B
    shift = 2 * settings.shift  # the side is 2
    return _matrices(cos_B, -sin_B, x_B * shift, sin_B, cos_B, y_B * shift)


def _policy_moves(operation_B: Tensor, size_B: Tensor) -> Tensor:
    """The geometric operation of each image, or the identity; sizes in -1 .. 1 of the largest."""
    angle_B, shear_x_B, shear_y_B, x_B, y_B = (
        torch.where(operation_B == index, size_B * largest, 0.0)
        for index, largest in enumerate(GEOMETRIC.values(), start=len(COLOUR))
    )
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    # A shear leaves the first row or column in place, as in PIL: its fixed point is the corner (-1, -1).
    return _matrices(cos_B, shear_x_B - sin_B, x_B + shear_x_B, sin_B + shear_y_B, cos_B, y_B + shear_y_B)


def _frames(batch: int, settings: AugmentationSettings) -> list[Tensor]:
    """Matrices that stay within the image."""
    crops = [_crops(batch, settings)] if settings.crop_area_min < 1 else []
    return crops + ([_flips(batch, settings.flip)] if settings.flip else [])


def _moves(batch: int, settings: AugmentationSettings, policy: Policy) -> list[Tensor]:
    """Matrices that may reach beyond the image."""
    affine = settings.rotation_degrees or settings.scaling or settings.shift
    drawn = zip(policy.operation_SB, policy.level_SB * policy.sign_SB, strict=True)
    return ([_affines(batch, settings)] if affine else []) + [_policy_moves(*slot) for slot in drawn]


def _grid(matrix_B33: Tensor, side: int) -> Tensor:
    """Places (B, Y, X, 2) in the source of each pixel's centre; `affine_grid` without its product of large matrices."""
    centre_P = (2 * torch.arange(side, device=matrix_B33.device) + 1) / side - 1
    by_x_B2, by_y_B2, shift_B2 = matrix_B33[:, :2].unbind(2)
    row_BY2 = torch.addcmul(shift_B2[:, None], by_y_B2[:, None], centre_P[:, None])
    return torch.addcmul(row_BY2[:, :, None], by_x_B2[:, None, None], centre_P[:, None])


def _warp(images_BCYX: Tensor, settings: AugmentationSettings, policy: Policy, fill_C11: Tensor) -> Tensor:
    batch, _, rows, columns = images_BCYX.shape
    frames, moves = _frames(batch, settings), _moves(batch, settings, policy)
    if not frames and not moves:
        return images_BCYX
    if rows != columns:
        raise ValueError(f"expected square images, found {rows} x {columns} pixels")
    with torch.autocast("cpu", enabled=False):  # in bf16 a place would be off by up to half a pixel
        moves_B33 = reduce(torch.matmul, moves, torch.eye(3).expand(batch, 3, 3))
        matrix_B33 = reduce(torch.matmul, [*frames, moves_B33])
    grid_BYX2 = _grid(matrix_B33.to(images_BCYX.device), rows)
    if frames:
        # A crop at the edge would mix in the fill half a pixel beyond it; only what moves may reach out there.
        stays_B = (moves_B33 == torch.eye(3)).all(2).all(1)
        limit_B111 = torch.where(stays_B, 1 - 1 / rows, math.inf).view(-1, 1, 1, 1).to(images_BCYX.device)
        grid_BYX2 = grid_BYX2.clamp_(-limit_B111, limit_B111)
    sampled_BCYX = functional.grid_sample(images_BCYX - fill_C11, grid_BYX2, align_corners=False)
    return sampled_BCYX.add_(fill_C11).clamp_(0.0, 1.0)  # rounding


def to_unit(images_BYXC: Tensor) -> Tensor:
    """uint8 images (B, Y, X, C) as float32 (B, C, Y, X) in 0 .. 1."""
    images_BCYX = images_BYXC.permute(0, 3, 1, 2)
    return images_BCYX.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def normalise(images_BCYX: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """(x - mean) / std, channel by channel; images (B, C, Y, X) in 0 .. 1."""
    return (images_BCYX - mean_C.view(-1, 1, 1)) / std_C.view(-1, 1, 1)


def augment(images_BCYX: Tensor, settings: AugmentationSettings, fill_C: Tensor | None = None) -> Tensor:
    """Geometry and colour: float images (B, C, Y, X) in 0 .. 1 to the same.

    Args:
        fill_C: what comes in from outside the image, in 0 .. 1; black by default.

    Raises:
        ValueError: the images are not square, or have neither one channel nor three.
    """
    fill_C11 = images_BCYX.new_zeros(1, 1, 1) if fill_C is None else fill_C.view(-1, 1, 1)
    if not settings.rand_augment_operations:
        nothing = torch.empty(0, len(images_BCYX))
        return _warp(images_BCYX, settings, Policy(nothing, nothing, nothing), fill_C11)
    policy = draw_policy(len(images_BCYX), settings)
    return recolour(_warp(images_BCYX, settings, policy, fill_C11), policy)


def _inside(y: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], rows: int, columns: int) -> Tensor:
    """True (N, 1, Y, X) in a window from the first (N,) up to the second (N,), in whole pixels on each axis."""
    (top_N, bottom_N), (left_N, right_N) = ((low.view(-1, 1), high.view(-1, 1)) for low, high in (y, x))
    row_Y, column_X = torch.arange(rows, device=top_N.device), torch.arange(columns, device=top_N.device)
    in_y_NY, in_x_NX = (row_Y >= top_N) & (row_Y < bottom_N), (column_X >= left_N) & (column_X < right_N)
    return (in_y_NY.unsqueeze(2) & in_x_NX.unsqueeze(1)).unsqueeze(1)


def _placed(side_N: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """A whole window of so many pixels, anywhere: its first pixel and the one after its last."""
    first_N = (torch.rand(len(side_N)) * (pixels - side_N + 1)).floor()
    return first_N, first_N + side_N


def erase(images_BCYX: Tensor, settings: AugmentationSettings) -> Tensor:
    """Overwrite a window of some images; normalised images (B, C, Y, X)."""
    if not settings.erasing:
        return images_BCYX
    rows, columns = images_BCYX.shape[2:]
    chosen_N = (torch.rand(len(images_BCYX)) < settings.erasing).nonzero().squeeze(1)
    area = settings.erasing_area_min, settings.erasing_area_max
    height_N, width_N = _windows(len(chosen_N), *area, settings.erasing_ratio)
    y, x = _placed((height_N * rows).round(), rows), _placed((width_N * columns).round(), columns)
    chosen_N, inside_N1YX = (values.to(images_BCYX.device) for values in (chosen_N, _inside(y, x, rows, columns)))
    images_NCYX = images_BCYX[chosen_N]
    new_NCYX = torch.randn_like(images_NCYX) if settings.erasing_noise else torch.zeros_like(images_NCYX)
    return images_BCYX.index_copy(0, chosen_N, torch.where(inside_N1YX, new_NCYX, images_NCYX))


def _own_shares(batch: int, rows: int, columns: int, settings: AugmentationSettings) -> Tensor:
    """Share (B, 1, Y, X) of each pixel that an image keeps: the same everywhere (mixup), or 0 in a window (cutmix)."""
    cut_probability = settings.mix_switch if settings.mixup and settings.cutmix else float(settings.cutmix > 0)
    cut_B = torch.rand(batch) < cut_probability
    alpha_B = torch.where(cut_B, settings.cutmix, settings.mixup)
    share_B = torch.distributions.Beta(alpha_B, alpha_B).sample()
    windows = []
    for pixels in (rows, columns):
        side_B = ((1 - share_B).sqrt() * pixels).floor()
        # A share of the side, so that the same state gives the same window at any size; may reach out of the image.
        first_B = (torch.rand(batch) * pixels).floor() - (side_B / 2).floor()
        windows.append((first_B, first_B + side_B))
    outside_B1YX = (~_inside(windows[0], windows[1], rows, columns)).float()
    return torch.where(cut_B.view(-1, 1, 1, 1), outside_B1YX, share_B.view(-1, 1, 1, 1))


def soft_targets(labels_B: Tensor, labels: int, smoothing: float) -> Tensor:
    """Labels (B,) as distributions (B, K): `smoothing` spread over all labels, the rest on the true one."""
    return functional.one_hot(labels_B, labels).float() * (1 - smoothing) + smoothing / labels


def mix(images_BCYX: Tensor, targets_BK: Tensor, settings: AugmentationSettings) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it in the batch, and their distributions of labels (B, K) by pixels' shares.

    Each image draws whether by mixup or cutmix, and its share.
    """
    if not (settings.mixup or settings.cutmix):
        return images_BCYX, targets_BK
    batch, _, rows, columns = images_BCYX.shape
    own_B1YX = _own_shares(batch, rows, columns, settings).to(images_BCYX.device)
    mixed_BCYX = torch.lerp(images_BCYX.roll(1, 0), images_BCYX, own_B1YX)
    return mixed_BCYX, torch.lerp(targets_BK.roll(1, 0), targets_BK, own_B1YX.mean((1, 2, 3)).unsqueeze(1))


def prepare(
    images_BYXC: Tensor,
    labels_B: Tensor,
    settings: AugmentationSettings,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    labels: int,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """uint8 images (B, Y, X, C) and labels (B,) to what a step trains on, all on the images' device.

    Args:
        mean: of each channel, of values in 0 .. 1.
        std: likewise.
        labels: K, their number.
        smoothing: share of each target that is spread over all labels.

    Returns:
        Normalised images (B, C, Y, X) and distributions of labels (B, K), float32.

    Raises:
        ValueError: as `augment`.
    """
    mean_C, std_C = (torch.tensor(values, device=images_BYXC.device) for values in (mean, std))
    images_BCYX = augment(to_unit(images_BYXC), settings, mean_C if settings.fill == "mean" else None)
    return mix(
        erase(normalise(images_BCYX, mean_C, std_C), settings), soft_targets(labels_B, labels, smoothing), settings
    )
