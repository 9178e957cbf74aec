"""Colours as an ICC profile means them."""

import io
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import processes
import pytest
from headwise.colour import ENTRY_BYTES, TABLE_BYTES, UNPACKED, Conversion, Conversions, to_srgb
from headwise.decoding import decode
from hypothesis import given
from hypothesis import strategies as st
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


SIZES = st.integers(0, 3 * TABLE_BYTES)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40), st.lists(SIZES, min_size=6, max_size=6), SIZES
)
def test_conversions_that_are_kept_stay_within_their_bytes(
    asked: list[tuple[int, bool]], sizes: list[int], limit_bytes: int
) -> None:
    """Whichever profiles come in whichever order; the one that was asked for last is there, if it fits at all."""
    made: list[str] = []

    def make(profile: bytes | None, mode: str) -> Conversion:
        made.append(mode)
        return None if mode == "L" else cast(Any, object())

    conversions = Conversions(limit_bytes, make)
    for number, changes_nothing in asked:
        profile, mode = bytes([number]) * (sizes[number] + 1), "L" if changes_nothing else "RGB"
        size_bytes = ENTRY_BYTES if changes_nothing else TABLE_BYTES + UNPACKED * len(profile)
        first, count = conversions.get(profile, mode), len(made)
        assert conversions.kept_bytes <= limit_bytes
        again = conversions.get(profile, mode)
        assert again is first or size_bytes > limit_bytes
        assert len(made) - count == (size_bytes > limit_bytes)


MANY_PROFILES = """
import sys
from headwise.colour import to_srgb
from PIL import Image

def resident_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

profile, image = bytes.fromhex(sys.argv[1]), Image.new("RGB", (8, 8), (255, 0, 0))
before = resident_mib()
for number in range(32):
    assert to_srgb(image, profile + bytes([number]) * 2**23).getpixel((0, 0))[2] > 200
print(resident_mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_many_large_profiles_take_no_memory_for_long() -> None:
    """32 of 8 MiB each leave a tenth of that behind, in a process of its own."""
    command = [sys.executable, "-c", MANY_PROFILES, swapped_primaries().hex()]
    assert float(processes.run(command, check=True).stdout) < 64
