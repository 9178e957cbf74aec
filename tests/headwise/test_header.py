"""What decoding takes at most, by the header; files that are built to cost too much."""

import io
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from headwise.decoding import UnreadableImage, cost, decode, readable
from headwise.header import CODECS, SMALL_BYTES
from PIL import Image, ImageFile

DECODE = """
import json, re, sys
from pathlib import Path
from headwise.decoding import cost, decode

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text("ascii"))[1])

for name in sys.argv[1:]:  # the first is a small one, for what a format needs once
    content = Path(name).read_bytes()
    before, bound = status("VmRSS"), cost(content, 32, 32)
    decode(content, 32, 32)
    print(json.dumps({"peak": status("VmHWM") - before, "bound": bound.bytes, "pixels": bound.pixels}))
"""
LARGE = (2800, 2500)  # more than one strip


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """The content of a file."""
    content = io.BytesIO()
    image.save(content, name, **options)
    return content.getvalue()


def textured(mode: str, size: tuple[int, int]) -> Image.Image:
    """An image no page of which is zero, and that is encoded in a moment."""
    columns, rows = np.arange(size[0]) % 200 + 20, np.arange(size[1]) % 29
    grey = Image.fromarray((columns[None, :] + rows[:, None]).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    return Image.merge("RGBA", [grey] * 4).convert(mode)


def png_of_16_bits(size: tuple[int, int]) -> bytes:
    """Colours of 16 bits that are all small, so that both of their bytes are read."""
    lines = (b"\0" + b"\0\x25" * (3 * size[0])) * size[1]
    return png(size, 2, zlib.compress(lines, 1), bits=16)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], colours: int, pixels: bytes, *chunks: bytes, bits: int = 8) -> bytes:
    """A PNG with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(size: tuple[int, int], *entries: tuple[int, int, int, int], data: bytes = b"", compression: int = 1) -> bytes:
    """A grey TIFF; `data` follows the directory."""
    fixed = [(256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    rows = sorted([*fixed, *entries])
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(rows))
        + b"".join(struct.pack("<HHII", *e) for e in rows)
        + bytes(4)
        + data
    )


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


IMAGES: list[tuple[str, str, dict[str, Any]]] = [
    *[("PNG", mode, {"compress_level": 1}) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")],
    ("JPEG", "RGB", {}),
    *[("JPEG", mode, {"progressive": True, "subsampling": 0}) for mode in ("L", "RGB", "CMYK")],
    *[("WebP", mode, {"lossless": True, "quality": 0, "method": 0}) for mode in ("RGB", "RGBA")],
    ("WebP", "RGB", {"method": 0}),
    ("BMP", "RGB", {}),
    ("GIF", "P", {}),
    *[("TIFF", mode, {}) for mode in ("RGB", "I;16")],
    *[("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("P", "RGBA", "CMYK", "I;16")],
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate", "tiffinfo": {278: LARGE[1]}}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    *[("AVIF", mode, {"speed": 10, "subsampling": "4:4:4"}) for mode in ("RGB", "RGBA")],
    *[("JPEG 2000", mode, {}) for mode in ("L", "RGB", "I;16")],
    ("JPEG 2000", "RGB", {"tile_size": (256, 256)}),
    *[("Netpbm", mode, {}) for mode in ("1", "L", "RGB")],
]


def measured(folder: Path, small: bytes, large: bytes) -> dict[str, int]:
    """What a process said of decoding the large image."""
    (folder / "small").write_bytes(small)
    (folder / "large").write_bytes(large)
    done = processes.run([sys.executable, "-c", DECODE, folder / "small", folder / "large"], check=True)
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(("kind", "mode", "options"), IMAGES)
def test_decoding_takes_no_more_memory_than_its_bound(
    kind: str, mode: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """In a process of its own; and the bound is not many times what is taken."""
    if kind not in readable():
        pytest.skip(f"{kind} is not read here")
    small, large = (encoded(textured(mode, size), CODECS[kind][0], **options) for size in ((16, 16), LARGE))
    result = measured(tmp_path, small, large)
    assert result["pixels"] == LARGE[0] * LARGE[1]
    assert result["peak"] <= result["bound"] <= 5 * result["peak"] + 4 * SMALL_BYTES


@pytest.mark.parametrize(
    "content",
    [
        png_of_16_bits(LARGE),
        b"P6 2800 2500 200\n" + b"\x25" * (3 * 7_000_000),
        png((1, 3_000_000), 2, zlib.compress(b"\0\1\2\3" * 3_000_000, 1)),
        b"P2 1000 1000 4095\n" + b"9#\n " * 10**6,
    ],
    ids=["both bytes of 16-bit colours", "scaled PPM", "one pixel wide", "plain PGM with comments"],
)
def test_bound_holds_of_what_is_unusual(content: bytes, tmp_path: Path) -> None:
    """Two images of 16-bit colours; tables and text of Netpbm; rows without end."""
    result = measured(tmp_path, encoded(textured("RGB", (16, 16)), "PNG"), content)
    assert result["peak"] <= result["bound"]


@pytest.mark.parametrize("kind", ["GIF", "WebP", "AVIF", "PNG", "TIFF"])
def test_animation_costs_one_frame(kind: str, tmp_path: Path) -> None:
    """However many there are."""
    options: dict[str, Any] = {"speed": 10} if kind == "AVIF" else {}
    frames = [Image.new("RGB", (256, 256), (number, 255 - number, 7)) for number in range(200)]
    content = encoded(frames[0], CODECS[kind][0], save_all=True, append_images=frames[1:], **options)
    result = measured(tmp_path, encoded(frames[0], CODECS[kind][0]), content)
    assert result["pixels"] == 256 * 256
    assert result["peak"] <= result["bound"] < 50 * 256 * 256 + 4 * len(content) + SMALL_BYTES


def test_progressive_jpeg_costs_its_coefficients() -> None:
    """Two bytes for each value at full size, though it is decoded at a reduced scale."""
    image = Image.new("RGB", (1600, 1600))
    plain, progressive = (
        cost(encoded(image, "JPEG", subsampling=0, progressive=choice), 32, 32).bytes for choice in (False, True)
    )
    assert abs(progressive - plain - 2 * 3 * 1600 * 1600) < 10_000  # which is for other tables


def test_smaller_size_wanted_makes_a_jpeg_cost_less() -> None:
    """It is decoded at a reduced scale."""
    content = encoded(Image.new("RGB", (4000, 4000)), "JPEG")
    assert cost(content, 32, 32).bytes < cost(content, 1000, 1000).bytes < cost(content, 2000, 2000).bytes


JPEG = encoded(Image.new("RGB", (64, 64)), "JPEG")
COSTLY = {
    "chunks": png((16, 16), 2, b"", chunk(b"abCd", b"") * 70_000),
    "directory": tiff((16, 16), (273, 4, 600_000, 8)),
    "strips for one pixel row": tiff((4, 4), (273, 4, 2000, 98), (278, 4, 1, 2), data=struct.pack("<II", 8, 9) * 1000),
    "tile": tiff((16, 16), (322, 4, 1, 65520), (323, 4, 1, 65520), (324, 4, 1, 8), (325, 4, 1, 9), compression=8),
    "segments": JPEG[:2] + segment(0xFE, b"") * 3000 + JPEG[2:],
    "EXIF segments": JPEG[:2] + segment(0xE1, b"Exif\0\0a") * 100 + JPEG[2:],
    "fill bytes": JPEG[:2] + b"\xff" * 100_000 + JPEG[2:],
    "comments": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1a" * 70_000 + b"\0,",
    "comments of Netpbm": b"P5 4 " + b"#\n" * 50_000 + b"4 255\n" + bytes(16),
    "runs": b"BM" + struct.pack("<IIIIiiHHII", 0, 0, 1078, 40, 10**7, 1, 1, 8, 1, 0) + bytes(2000),
    "row of pixels": b"P5 1 90000000 15\n" + bytes(100),
}


@pytest.mark.parametrize("content", COSTLY.values(), ids=COSTLY)
def test_file_that_is_built_to_cost_much_is_refused_by_its_header(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `cost` and by `decode`, with the same reason and advice, and nothing of it is decoded."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("was decoded"))
    reasons = []
    for function in (cost, decode):
        with pytest.raises(UnreadableImage, match=r"more .*(save it|scale it down)") as refused:
            function(content, 8, 8)
        reasons.append(str(refused.value))
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\x0a\xfa\x1f", b"P6 10001 10000 255\n", b"BM" + bytes(50)])
def test_cost_is_refused_as_decoding_is(content: bytes) -> None:
    """No image, a format that is not read, too large, damaged."""
    reasons = []
    for function in (cost, decode):
        with pytest.raises(UnreadableImage) as refused:
            function(content, 8, 8)
        reasons.append(str(refused.value))
    assert reasons[0] == reasons[1]
