"""Colour operations against PIL on 8-bit images.

Tolerances are in levels of 255: 0 where PIL's result is exact, otherwise what its rounding to 8 bits may come to.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from headwise_exporter.data import colour
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

Picture = Image.Image
SIDE = 24
FACTORS = (0.1, 0.55, 1.0, 1.45, 1.9)


def pictures(channels: int) -> list[np.ndarray]:
    """8-bit images (Y, X, C): all levels, few levels, little contrast, and one that is flat."""
    random = np.random.default_rng(channels)
    shape = (SIDE, SIDE, channels)
    spreads = ((0, 256), (40, 90), (100, 103), (77, 78))
    return [random.integers(low, high, shape, dtype=np.uint8) for low, high in spreads]


def to_batch(images_BYXC: list[np.ndarray]) -> Tensor:
    """Float (B, C, Y, X) in 0 .. 1."""
    return torch.from_numpy(np.stack(images_BYXC)).permute(0, 3, 1, 2).float() / 255


def by_pil(images_BYXC: list[np.ndarray], operation: Callable[[Picture], Picture]) -> Tensor:
    """What PIL makes of each image, as a batch."""
    channels = images_BYXC[0].shape[-1]
    results = [np.asarray(operation(Image.fromarray(image.squeeze()))) for image in images_BYXC]
    return to_batch([result.reshape(SIDE, SIDE, channels) for result in results])


def parameter(value: float, batch: int) -> Tensor:
    """The same parameter for each image."""
    return torch.full((batch, 1, 1, 1), float(value))


def levels_apart(images: Tensor, expected: Tensor) -> float:
    """The largest difference, in levels of 255."""
    return float((images - expected).abs().max() * 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "pil", "tolerance"),
    [
        (colour.invert, ImageOps.invert, 0.0),
        (colour.equalize, ImageOps.equalize, 0.0),
        (colour.autocontrast, ImageOps.autocontrast, 1.0),  # PIL rounds down
    ],
)
def test_operation_without_parameter_is_pils(
    channels: int, ours: Callable[[Tensor], Tensor], pil: Callable[[Picture], Picture], tolerance: float
) -> None:
    """Inverting and equalising are exact; stretching the contrast agrees within one level."""
    images = pictures(channels)
    assert levels_apart(ours(to_batch(images)), by_pil(images, pil)) <= tolerance + 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_posterize_is_pils(channels: int, bits: int) -> None:
    """The highest bits of each level stay, exactly."""
    images = pictures(channels)
    posterized = colour.posterize(to_batch(images), parameter(bits, len(images)))
    assert levels_apart(posterized, by_pil(images, lambda image: ImageOps.posterize(image, bits))) <= 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threshold", [0, 26, 77, 128, 256])
def test_solarize_is_pils(channels: int, threshold: int) -> None:
    """Levels at or above the threshold are inverted, exactly."""
    images = pictures(channels)
    solarized = colour.solarize(to_batch(images), parameter(threshold, len(images)))
    assert levels_apart(solarized, by_pil(images, lambda image: ImageOps.solarize(image, threshold))) <= 1e-3


def test_solarize_add_brightens_the_darker_half() -> None:
    """Levels below 128 rise by the given number, exactly; the others stay."""
    ramp = [np.arange(256, dtype=np.uint8).reshape(16, 16, 1)]
    expected = [np.where(ramp[0] < 128, ramp[0] + 99, ramp[0])]
    assert levels_apart(colour.solarize_add(to_batch(ramp), parameter(99, 1)), to_batch(expected)) <= 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("ours", "pil", "tolerance"),
    [
        (colour.brightness, ImageEnhance.Brightness, 1.0),  # PIL rounds the result,
        (colour.contrast, ImageEnhance.Contrast, 2.0),  # the grey and its mean too,
        (colour.color, ImageEnhance.Color, 2.0),  # the grey too,
        (colour.sharpness, ImageEnhance.Sharpness, 2.0),  # and the smoothed image too
    ],
)
def test_enhancement_is_pils(
    channels: int, factor: float, ours: Callable[[Tensor, Tensor], Tensor], pil: type, tolerance: float
) -> None:
    """Enhancements agree within one or two levels, on both sides of the image itself."""
    images = pictures(channels)
    enhanced = ours(to_batch(images), parameter(factor, len(images)))
    assert levels_apart(enhanced, by_pil(images, lambda image: pil(image).enhance(factor))) <= tolerance + 1e-3


def test_each_image_has_its_own_parameter() -> None:
    """A batch with different parameters is the images with theirs, one by one."""
    images, values = to_batch(pictures(3)), torch.tensor([0.3, 1.7, 0.9, 1.1]).view(-1, 1, 1, 1)
    for operation in (colour.brightness, colour.contrast, colour.color, colour.sharpness):
        alone = torch.cat([operation(images[i : i + 1], values[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(operation(images, values), alone)


def test_other_numbers_of_channels_have_no_grey() -> None:
    """Two channels are refused with what was expected."""
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels, found 2"):
        colour.grey(torch.rand(1, 2, 4, 4))
