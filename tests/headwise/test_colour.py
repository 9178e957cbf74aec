"""Colours as an ICC profile means them."""

import io
from typing import Any

import numpy as np
import pytest
from headwise.colour import to_srgb
from headwise.decoding import decode
from PIL import Image, ImageCms

LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The content of a file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def swapped_primaries() -> bytes:
    """The sRGB profile with the columns of red and blue exchanged: a profile that changes every colour."""
    red, blue = SRGB.index(b"rXYZ"), SRGB.index(b"bXYZ")
    profile = bytearray(SRGB)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_of_other_colours_is_followed(kind: str) -> None:
    """Where red is called blue it comes out blue, in every format that takes a profile."""
    options = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    level = decode(encoded(red, kind, icc_profile=swapped_primaries(), **options), 4, 4)[0, 0].astype(int)
    assert level[2] > 200
    assert level[0] < 60


def test_srgb_under_any_name_changes_nothing() -> None:
    """Not by a single grey level."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    np.testing.assert_array_equal(
        decode(encoded(noise, "PNG", icc_profile=SRGB), 16, 16), decode(encoded(noise, "PNG"), 16, 16)
    )


@pytest.mark.parametrize("profile", [b"", b"nonsense", SRGB[:100], LAB, b"\0" * 4000])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_profile_that_does_not_fit_is_ignored(profile: bytes, mode: str) -> None:
    """Damaged, or of other channels: the image is as without it."""
    image = Image.new("RGB", (8, 8), (200, 100, 50)).convert(mode)
    assert to_srgb(image, profile).convert("RGB").getpixel((0, 0)) == image.convert("RGB").getpixel((0, 0))
