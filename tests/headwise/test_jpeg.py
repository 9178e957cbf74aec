"""What a JPEG file says before its first pixel."""

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwise.decoding import decode
from headwise.formats import UnreadableImage
from headwise.jpeg import MAX_SCANS, read_header
from PIL import Image


def encoded(**options: Any) -> bytes:
    """A JPEG of noise, 100 x 60."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG", **options)
    return content.getvalue()


def of_scans(scans: int) -> bytes:
    """A progressive JPEG that says the same thing in many scans."""
    content = encoded(progressive=True)
    starts = [match.start() for match in re.finditer(rb"\xff\xda", content)]
    end = re.compile(rb"\xff[^\x00\xd0-\xd7]").search(content, starts[1] + 2)
    assert end is not None
    return content[: starts[1]] + content[starts[1] : end.start()] * (scans - len(starts) + 1) + content[end.start() :]


@pytest.mark.parametrize(("subsampling", "values"), [(0, 3 * 104 * 64), (1, 2 * 112 * 64), (2, 112 * 64 * 3 // 2)])
def test_coefficients_of_a_progressive_image_are_counted(subsampling: int, values: int) -> None:
    """All components, up to whole units of blocks; of a sequential image none are kept."""
    header = read_header(io.BytesIO(encoded(subsampling=subsampling, progressive=True)))
    assert (header.width, header.height, header.coefficient_bytes) == (100, 60, 2 * values)
    assert read_header(io.BytesIO(encoded(subsampling=subsampling))).coefficient_bytes == 0


def test_image_of_a_scan_for_each_component_is_held_in_memory() -> None:
    """Though it is sequential: the first scan has one component of three."""
    content = encoded(subsampling=0)
    start = content.index(b"\xff\xda")
    one = content[: start + 2] + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0) + content[start + 14 :]
    assert read_header(io.BytesIO(one)).coefficient_bytes > 0


def test_scans_are_limited() -> None:
    """As many as the limit are decoded, one more is refused before that."""
    assert decode(of_scans(MAX_SCANS), 8, 8).shape == (8, 8, 3)
    with pytest.raises(UnreadableImage, match="a JPEG image of more than 100 scans; save it again"):
        decode(of_scans(MAX_SCANS + 1), 8, 8)


@pytest.mark.parametrize("before", [True, False])
def test_what_is_no_scan_of_this_image_is_not_counted(before: bool) -> None:
    """Thumbnails in metadata, and what follows the image: videos, and other images."""
    content, other = encoded(progressive=True), b"\xff\xda" * 1000
    metadata = b"\xff\xe1" + struct.pack(">H", len(other) + 2) + other
    content = content[:2] + metadata + content[2:] if before else content + other
    assert read_header(io.BytesIO(content)).coefficient_bytes > 0


def test_file_on_a_disk_is_read_as_one_in_memory(tmp_path: Path) -> None:
    """Without reading all of it."""
    (tmp_path / "image.jpg").write_bytes(content := encoded(progressive=True))
    with (tmp_path / "image.jpg").open("rb") as file:
        assert read_header(file) == read_header(io.BytesIO(content))
