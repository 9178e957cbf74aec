"""Image files of every kind to pixels."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.decoding import CODECS, UnreadableImage, decode, readable
from hypothesis import given, settings
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    """The file of an image."""
    image.save(path, **options)
    return path


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """The content of a file."""
    content = io.BytesIO()
    image.save(content, name, **options)
    return content.getvalue()


def two_halves(mode: str = "RGB") -> Image.Image:
    """16 x 16 pixels: the upper half red, the lower half blue."""
    image = Image.new("RGB", (16, 16), RED)
    image.paste(BLUE, (0, 8, 16, 16))
    return image.convert(mode)


def colours_at(image_YXC: NDArray[np.uint8], *places: tuple[int, int]) -> list[tuple[int, ...]]:
    """Pixels at (row, column)."""
    return [tuple(int(value) for value in image_YXC[place]) for place in places]


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp"])
def test_every_format_gives_its_pixels(tmp_path: Path, suffix: str) -> None:
    """At its own size an image comes out as it was stored."""
    path = saved(tmp_path / f"image.{suffix}", two_halves(), **({"lossless": True} if suffix == "webp" else {}))
    image_YXC = decode(path, 16, 16)
    assert (image_YXC.shape, image_YXC.dtype) == ((16, 16, 3), np.uint8)
    assert colours_at(image_YXC, (0, 0), (15, 15)) == [RED, BLUE]


def test_content_decides_the_format(tmp_path: Path) -> None:
    """A PNG file called .jpg is a PNG file."""
    assert colours_at(decode(saved(tmp_path / "x.jpg", two_halves(), format="PNG"), 16, 16), (0, 0)) == [RED]


@pytest.mark.parametrize(("mode", "tolerance"), [("L", 0), ("CMYK", 3), ("P", 0), ("1", 0), ("RGBA", 0), ("LA", 0)])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str, tolerance: int) -> None:
    """White stays white and black stays black in every mode."""
    image = Image.new("RGB", (8, 8), "white")
    image.paste("black", (0, 4, 8, 8))
    options: dict[str, Any] = {"format": "JPEG", "quality": 100} if mode == "CMYK" else {"format": "PNG"}
    image_YXC = decode(saved(tmp_path / "image", image.convert(mode), **options), 8, 8).astype(int)
    assert image_YXC.shape == (8, 8, 3)
    assert np.abs(image_YXC[:4] - 255).max() <= tolerance
    assert image_YXC[4:].max() <= tolerance


def test_floating_point_image_is_refused(tmp_path: Path) -> None:
    """It does not state which value is white."""
    with pytest.raises(UnreadableImage, match=r"32 bits a channel \(mode F\)"):
        decode(saved(tmp_path / "image.tiff", Image.new("F", (8, 8))), 8, 8)


@pytest.mark.parametrize("palette", [False, True])
def test_transparent_pixels_are_laid_on_white(tmp_path: Path, palette: bool) -> None:
    """What cannot be seen becomes white, whatever colour it hides."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 4, 8, 8))
    path = saved(tmp_path / "image.png", image.quantize() if palette else image)
    assert colours_at(decode(path, 8, 8), (0, 0), (7, 7)) == [(255, 255, 255), RED]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    """As Pillow turns the whole image, also to a target that is not square."""
    image = Image.new("RGB", (64, 48), RED)
    image.paste(BLUE, (0, 24, 64, 48))
    image.paste(GREEN, (0, 0, 32, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"image.{suffix}", image, exif=exif, quality=100)
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    expected = np.asarray(upright.resize((12, 16), Image.Resampling.BILINEAR), dtype=int)
    difference = np.abs(decode(path, 12, 16, centre=False) - expected)
    assert difference.max() <= (10 if suffix == "jpg" else 3)  # a JPEG is decoded at a reduced scale


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # which the decoder silences outside of tests
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_exif_block_that_makes_no_sense_is_ignored(tmp_path: Path, exif: bytes) -> None:
    """The image is taken as it lies."""
    for suffix in ("jpg", "png", "webp"):
        path = saved(tmp_path / f"image.{suffix}", Image.new("RGB", (16, 16), RED), exif=exif)
        assert np.abs(decode(path, 4, 4).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation_counts(tmp_path: Path, suffix: str) -> None:
    """Later frames are not looked at."""
    first, second = Image.new("RGB", (8, 8), GREEN), Image.new("RGB", (8, 8), RED)
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"image.{suffix}", first, save_all=True, append_images=[second], **options)
    assert colours_at(decode(path, 8, 8), (4, 4)) == [GREEN]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2)])
def test_tiny_image_is_scaled_up(tmp_path: Path, size: tuple[int, int]) -> None:
    """One pixel is enough of an image."""
    image_YXC = decode(saved(tmp_path / "image.png", Image.new("RGB", size, GREEN)), 32, 32)
    assert image_YXC.shape == (32, 32, 3)
    assert (image_YXC == GREEN).all()


@pytest.mark.parametrize("upright", [False, True])
def test_centre_square_is_kept(tmp_path: Path, upright: bool) -> None:
    """A wide or high image loses both ends."""
    image = Image.new("RGB", (96, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    if upright:
        image = image.transpose(Image.Transpose.ROTATE_90)
    assert (decode(saved(tmp_path / "image.png", image), 16, 16)[1:-1, 1:-1] == GREEN).all()


def test_scaling_down_is_antialiased(tmp_path: Path) -> None:
    """A chessboard of single pixels becomes grey and not a pattern."""
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    image_YXC = decode(saved(tmp_path / "image.png", Image.fromarray(board.astype(np.uint8))), 8, 8)
    assert np.abs(image_YXC.astype(int) - 127).max() <= 8


def test_draft_of_a_large_jpeg_is_near_the_full_decoding(tmp_path: Path) -> None:
    """A photograph-like image decoded small differs by a grey level or two from the full decoding made small."""
    rows, columns = np.mgrid[0:1024, 0:1024] / 1024
    smooth = np.stack([rows, columns, np.sin(9 * rows * columns) ** 2], -1)
    image = Image.fromarray((smooth * 255).astype(np.uint8))
    drafted = decode(saved(tmp_path / "image.jpg", image, quality=95), 64, 64).astype(int)
    with Image.open(tmp_path / "image.jpg") as full:
        expected = np.asarray(full.resize((64, 64), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(drafted - expected).mean() < 1
    assert np.abs(drafted - expected).max() <= 8


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says how large it is and ends there."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 1000) + b"IDAT"


def jpeg_of_size(width: int, height: int, **options: Any) -> bytes:
    """A small JPEG that says it is of another size."""
    content = encoded(Image.new("RGB", (16, 16), GREEN), "JPEG", **options)
    start = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", content)
    assert start is not None
    return content[: start.end()] + struct.pack(">HH", height, width) + content[start.end() + 4 :]


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (png_header(10_001, 10_000), "100,000,000"),
        (jpeg_of_size(25_001, 10_000), "250,000,000"),
        (jpeg_of_size(10_001, 10_000, progressive=True), "100,000,000"),
        (b"P6 10001 10000 255\n", "100,000,000"),
        (b"P3 10001 1000 255\n", "10,000,000"),
    ],
)
def test_huge_image_is_refused_by_its_header(content: bytes, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is decoded. A progressive JPEG is held in memory whole, so it has the lower limit."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("was decoded"))
    with pytest.raises(UnreadableImage, match=rf"an image of \d+ x \d+ pixels, more than {limit}; scale it down"):
        decode(content, 8, 8)


def test_jpeg_of_more_than_a_hundred_million_pixels_is_read(tmp_path: Path) -> None:
    """As phones of 108 megapixels write it: at a reduced scale, in little memory."""
    row = Image.new("RGB", (12_000, 9_000), GREEN)
    image_YXC = decode(saved(tmp_path / "phone.jpg", row), 16, 16)
    assert np.abs(image_YXC.astype(int) - GREEN).max() <= 3


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    """Text, nothing and a folder."""
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.jpg", "empty.png"):
        with pytest.raises(UnreadableImage, match=r"no image that is read here \(JPEG, PNG, .*\)|an empty file"):
            decode(tmp_path / name, 8, 8)


@pytest.mark.parametrize("kind", readable())
def test_truncated_image_is_a_damaged_one_of_its_format(kind: str) -> None:
    """Half a file is no image: not one with a grey lower half."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), CODECS[kind][0])
    with pytest.raises(UnreadableImage, match=rf"^an? damaged or truncated {kind}: "):
        decode(content[: len(content) // 2], 8, 8)


@settings(max_examples=200)
@given(st.data())
def test_damaged_image_is_decoded_or_refused(data: st.DataObject) -> None:
    """Whatever bytes of whatever format are changed, there are pixels or a reason."""
    kind = data.draw(st.sampled_from(readable()))
    content = bytearray(encoded(two_halves(), CODECS[kind][0]))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels_YXC = decode(bytes(content), 6, 8)
    except UnreadableImage:
        return
    assert (pixels_YXC.shape, pixels_YXC.dtype) == ((8, 6, 3), np.uint8)


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), wanted=st.integers(1, 40), grey=st.booleans())
def test_plain_image_is_cropped_and_resized_by_pillow_in_one_step(
    size: tuple[int, int], wanted: int, grey: bool
) -> None:
    """What models in use were trained on: bit for bit the centre square at its size."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert("L" if grey else "RGB")
    side = min(size)
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    box = (left, top, left + side, top + side)
    expected = image.convert("RGB").resize((wanted, wanted), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), wanted, wanted), np.asarray(expected))


def test_path_content_and_open_file_give_the_same(tmp_path: Path) -> None:
    """Wherever the bytes are."""
    path = saved(tmp_path / "image.jpg", two_halves())
    pixels_YXC = decode(path, 8, 8)
    np.testing.assert_array_equal(decode(path.read_bytes(), 8, 8), pixels_YXC)
    with path.open("rb") as file:
        np.testing.assert_array_equal(decode(file, 8, 8), pixels_YXC)


def test_large_image_is_converted_in_strips_without_a_seam() -> None:
    """An image above the size of a strip gives what one below it gives."""
    rows, columns = np.mgrid[0:2400, 0:2400]
    pixels = np.stack([rows // 10, columns // 10, np.full_like(rows, 90), np.full_like(rows, 255)], -1).astype(np.uint8)
    large = decode(encoded(Image.fromarray(pixels, "RGBA"), "PNG", compress_level=1), 40, 40).astype(int)
    small = decode(encoded(Image.fromarray(np.ascontiguousarray(pixels[::2, ::2]), "RGBA"), "PNG"), 40, 40).astype(int)
    assert np.abs(large - small).max() <= 1


def test_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    """The system's reason, not a damaged image."""
    with pytest.raises(UnreadableImage, match="a file that cannot be read: No such file or directory"):
        decode(tmp_path / "absent.png", 8, 8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image, which is not read; convert it to PNG or JPEG"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera raw file, which is not read; develop it to JPEG or TIFF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video, which is not read; save a frame of it as PNG or JPEG"),
        (b"%PDF-1.7", "a PDF file, which is not read"),
        (b"", "an empty file"),
    ],
)
def test_kind_that_is_not_read_is_named_with_advice(content: bytes, reason: str) -> None:
    """What it is, and what to do."""
    with pytest.raises(UnreadableImage, match=reason):
        decode(content, 8, 8)


def test_netpbm_is_scaled_by_its_largest_value() -> None:
    """A PGM and a PPM of any range; white is white."""
    for largest, stored in ((15, np.uint8), (255, np.uint8), (1000, ">u2"), (65535, ">u2")):
        for magic, channels in ((b"P5", 1), (b"P6", 3)):
            values = np.full((4, 4, channels), largest, stored)
            values[:2] = 0
            content = b"%s 4 4 %d\n" % (magic, largest) + values.tobytes()
            pixels_YXC = decode(content, 4, 4)
            assert colours_at(pixels_YXC, (0, 0), (3, 3)) == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_what_stands_behind_an_image_is_no_part_of_it(kind: str) -> None:
    """Padding of any size, as cameras and downloads leave it: the pixels are the same."""
    plain = encoded(Image.new("RGB", (8, 8), (200, 100, 50)), kind)
    for behind in (bytes(10), bytes(800_000), b"\xff" * 1000):
        np.testing.assert_array_equal(decode(io.BytesIO(plain + behind), 8, 8), decode(io.BytesIO(plain), 8, 8))
