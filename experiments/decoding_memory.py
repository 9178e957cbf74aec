"""What decoding an image takes in memory, beside the bound that is known from its header (`headwise.header`).

    python experiments/decoding_memory.py --json results/decoding_memory.json

An image of each format and mode is decoded in a process of its own. Its peak is the growth of the resident memory until
the end, beyond that before the header is read; a small image of the same format has been decoded by then.
"""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from headwise.decoding import readable
from headwise.header import CODECS
from headwise_exporter.commands.console import progress
from PIL import Image
from records import write_record
from rich.console import Console
from rich.table import Table

MIB = 2**20
WANTED = 224  # pixels
SMALL = 16
CHILD = """
import json, re, sys, time
from pathlib import Path
from headwise.decoding import cost, decode

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text("ascii"))[1])

for name in sys.argv[2:]:
    content, wanted = Path(name).read_bytes(), int(sys.argv[1])
    before, start = status("VmRSS"), time.perf_counter()
    bound = cost(content, wanted, wanted)
    header = time.perf_counter()
    decode(content, wanted, wanted)
    end = time.perf_counter()
print(json.dumps({"file_bytes": len(content), "pixels": bound.pixels, "bound_bytes": bound.bytes,
    "peak_bytes": status("VmHWM") - before, "header_seconds": header - start, "seconds": end - header}))
"""
LOSSLESS = {"lossless": True, "quality": 0, "method": 0}
IMAGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("PNG", mode, {"compress_level": 1}) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode, {}) for mode in ("RGB", "CMYK")),
    *(("JPEG", mode, {"progressive": True, "subsampling": 0}) for mode in ("L", "RGB", "CMYK")),
    *(("WebP", mode, options) for mode in ("RGB", "RGBA") for options in (LOSSLESS, {"method": 0})),
    *(("BMP", mode, {}) for mode in ("P", "RGB")),
    ("GIF", "P", {}),
    *(("TIFF", mode, {"compression": name}) for mode in ("P", "RGBA", "I;16") for name in ("raw", "tiff_lzw")),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    *(("AVIF", mode, {"speed": 10, "subsampling": s}) for mode in ("RGB", "RGBA") for s in ("4:2:0", "4:4:4")),
    *(("JPEG 2000", mode, {}) for mode in ("L", "RGB", "RGBA", "I;16")),
    *(("JPEG 2000", "RGB", options) for options in ({"tile_size": (256, 256)}, {"codeblock_size": (8, 8)})),
    *(("Netpbm", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
    *(("HEIC", mode, {"quality": 50}) for mode in ("RGB", "RGBA")),
)


def image(mode: str, side: int) -> Image.Image:
    """A square image no page of which is zero."""
    places = np.arange(side)
    grey = Image.fromarray((places[None, :] % 200 + places[:, None] % 29 + 20).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    return Image.merge("RGBA", [grey] * 4).convert(mode)


def measure(folder: Path, side: int) -> Iterator[dict[str, Any]]:
    """A row for each format and mode that is read here."""
    for kind, mode, options in IMAGES:
        if kind not in readable():
            continue
        paths = [folder / "small", folder / "large"]
        for path, pixels in zip(paths, (SMALL, side), strict=True):
            content = io.BytesIO()
            image(mode, pixels).save(content, CODECS[kind][0], **options)
            path.write_bytes(content.getvalue())
        command = [sys.executable, "-c", CHILD, str(WANTED), *map(str, paths)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield {"format": kind, "mode": mode, "options": options, **json.loads(done.stdout)}


def report(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table."""
    table = Table()
    for column in ("format", "mode", "options", "bytes for a pixel", "MiB", "bound", "seconds"):
        table.add_column(column, justify="left" if column in ("format", "mode", "options") else "right")
    for row in rows:
        options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
        figures = (
            f"{row['peak_bytes'] / row['pixels']:.1f}",
            *(f"{row[n] / MIB:.0f}" for n in ("peak_bytes", "bound_bytes")),
        )
        table.add_row(row["format"], row["mode"], options, *figures, f"{row['seconds']:.2f}")
    return table


def main(
    side: Annotated[int, typer.Option(min=SMALL, help="Pixels to a side.")] = 5000,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for the record.")] = None,
) -> None:
    """Measure, print and record. Exit status 1 when a bound does not hold."""
    rows = []
    with tempfile.TemporaryDirectory() as work, progress("decode", len(IMAGES), "images") as advance:
        for row in measure(Path(work), side):
            rows.append(row)
            advance(1, row["format"])
    packages = {package: version(package) for package in ("pillow", "pillow-heif", "numpy")}
    if json_path is not None:
        write_record(json_path, {"side": side, "wanted": WANTED, "packages": packages, "rows": rows})
    Console().print(report(rows))
    if any(row["peak_bytes"] > row["bound_bytes"] for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
