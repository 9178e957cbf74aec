"""Resizing in strips."""

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise import resizing
from headwise.resizing import frame, resized, working_bytes
from hypothesis import HealthCheck, given, settings
from PIL import Image

SIDES = st.integers(1, 120)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=st.tuples(SIDES, SIDES),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    centre=st.booleans(),
    strip_pixels=st.integers(1, 4000),
)
def test_strips_give_what_the_whole_image_gives(
    source: tuple[int, int],
    size: tuple[int, int],
    centre: bool,
    strip_pixels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the rounding between Pillow's two passes, whose order depends on the sizes."""
    noise = np.random.default_rng(0).integers(0, 256, source[::-1], dtype=np.uint8)
    image, box = Image.fromarray(noise), frame(source, size, centre)
    monkeypatch.setattr(resizing, "STRIP_PIXELS", 10**9)
    whole = resized(image, Image.Image.copy, True, size, box, "bilinear")
    monkeypatch.setattr(resizing, "STRIP_PIXELS", strip_pixels)
    strips = resized(image, Image.Image.copy, True, size, box, "bilinear")
    assert strips.size == whole.size == size
    assert np.abs(np.asarray(strips).astype(int) - np.asarray(whole)).max() <= 2


@pytest.mark.parametrize("source", [(1, 300_000), (300_000, 1)])
def test_narrow_image_is_resized_in_little_memory(source: tuple[int, int]) -> None:
    """Rows of the width wanted, made first, would be 600 MB of an image of 300,000 pixels."""
    assert 0 < working_bytes(source, (500, 500), 0) < 20 * 2**20


def test_columns_that_are_cut_off_are_not_converted() -> None:
    """The centre of a wide image takes a fraction of it."""
    converted = []

    def convert(part: Image.Image) -> Image.Image:
        converted.append(part.width * part.height)
        return part.convert("L")

    image = Image.new("1", (60_000, 100), 1)
    resized(image, convert, True, (10, 10), frame(image.size, (10, 10), True), "bilinear")
    assert sum(converted) < 5 * 100 * 100
