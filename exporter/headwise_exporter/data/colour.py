"""Colour operations on a batch of images, each image with a parameter of its own.

Images are float (N, C, Y, X) in 0 .. 1 and stay there; parameters are (N, 1, 1, 1). Each function is the one of that
name in PIL's ImageOps or ImageEnhance (`solarize_add`: in timm), without PIL's rounding of the result to 8 bits; what
PIL defines on 8-bit levels (equalize, posterize, thresholds) is computed on the nearest ones.

Shape suffixes as in `data.augmentation`; R rows: images times channels; P pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

FLAT = 0.5 / 255  # contrast below which an image has none to stretch


def _eight_bits(images_NCYX: Tensor) -> Tensor:
    return (images_NCYX * 255).round_()


def autocontrast(images_NCYX: Tensor) -> Tensor:
    """Stretch each channel to 0 .. 1; one that is flat stays."""
    low_NC11, high_NC11 = images_NCYX.amin((2, 3), keepdim=True), images_NCYX.amax((2, 3), keepdim=True)
    range_NC11 = high_NC11 - low_NC11
    return torch.where(range_NC11 > FLAT, (images_NCYX - low_NC11) / range_NC11.clamp(min=FLAT), images_NCYX)


def equalize(images_NCYX: Tensor) -> Tensor:
    """Equalise the histogram of each channel; one that is flat stays."""
    levels_RP = _eight_bits(images_NCYX).long().flatten(0, 1).flatten(1)
    histogram_R256 = levels_RP.new_zeros(len(levels_RP), 256).scatter_add_(1, levels_RP, torch.ones_like(levels_RP))
    brightest_R1 = histogram_R256.gather(1, levels_RP.amax(1, keepdim=True))
    step_R1 = (levels_RP.shape[1] - brightest_R1) // 255
    below_R256 = histogram_R256.cumsum(1) - histogram_R256
    table_R256 = ((below_R256 + step_R1 // 2) // step_R1.clamp(min=1)).clamp(max=255)
    equalised_NCYX = table_R256.gather(1, levels_RP).view_as(images_NCYX).to(images_NCYX.dtype) / 255
    return torch.where(step_R1.view(*images_NCYX.shape[:2], 1, 1) > 0, equalised_NCYX, images_NCYX)


def invert(images_NCYX: Tensor) -> Tensor:
    """Black to white."""
    return 1 - images_NCYX


def posterize(images_NCYX: Tensor, bits_N111: Tensor) -> Tensor:
    """Keep so many of the 8 bits of each value, the highest."""
    step_N111 = torch.exp2(8 - bits_N111)
    return (_eight_bits(images_NCYX) / step_N111).floor() * step_N111 / 255


def solarize(images_NCYX: Tensor, threshold_N111: Tensor) -> Tensor:
    """Invert values at or above a threshold of 0 .. 256."""
    return torch.where(_eight_bits(images_NCYX) >= threshold_N111, 1 - images_NCYX, images_NCYX)


def solarize_add(images_NCYX: Tensor, added_N111: Tensor) -> Tensor:
    """Brighten the darker half of the values by so many of 255 levels. Source: timm."""
    brightened_NCYX = (images_NCYX + added_N111 / 255).clamp(max=1.0)
    return torch.where(_eight_bits(images_NCYX) < 128, brightened_NCYX, images_NCYX)


def grey(images_NCYX: Tensor) -> Tensor:
    """Luma (N, 1, Y, X) by ITU-R 601-2, as in PIL.

    Raises:
        ValueError: neither one channel nor three.
    """
    channels = images_NCYX.shape[1]
    if channels == 1:
        return images_NCYX
    if channels != 3:
        raise ValueError(f"expected images of 1 or 3 channels, found {channels}")
    red, green, blue = images_NCYX.split(1, dim=1)
    luma_N1YX: Tensor = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma_N1YX


def _blend(degenerate: Tensor, images_NCYX: Tensor, factor_N111: Tensor) -> Tensor:
    return torch.lerp(degenerate.expand_as(images_NCYX), images_NCYX, factor_N111).clamp_(0.0, 1.0)


def color(images_NCYX: Tensor, factor_N111: Tensor) -> Tensor:
    """From grey (0) through the image (1) to more colourful."""
    return _blend(grey(images_NCYX), images_NCYX, factor_N111)


def contrast(images_NCYX: Tensor, factor_N111: Tensor) -> Tensor:
    """From the mean grey (0) through the image (1) to more contrast."""
    return _blend(grey(images_NCYX).mean((1, 2, 3), keepdim=True), images_NCYX, factor_N111)


def brightness(images_NCYX: Tensor, factor_N111: Tensor) -> Tensor:
    """From black (0) through the image (1) to brighter."""
    return (images_NCYX * factor_N111).clamp_(0.0, 1.0)


def sharpness(images_NCYX: Tensor, factor_N111: Tensor) -> Tensor:
    """From smoothed (0) through the image (1) to sharper; the outermost pixels stay."""
    smooth_NCYX = images_NCYX.clone()
    inner = smooth_NCYX[..., 1:-1, 1:-1]
    # PIL's kernel: 5/13 in the middle, 1/13 around it
    inner.mul_(4 / 13).add_(functional.avg_pool2d(images_NCYX, 3, 1), alpha=9 / 13)
    return _blend(smooth_NCYX, images_NCYX, factor_N111)
