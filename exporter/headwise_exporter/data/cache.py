"""Images that were decoded once, in a file that later runs map into memory.

The name of a cache file holds a hash of everything its content depends on: data set, size, the transformation's version
and each file's relative path, size and time of change. So a changed image makes another cache file; old ones stay until
someone deletes them. A file of the wrong length or kind is made again. Flipped bits within the pixels are not seen
here: the runs' fingerprint of all pixels sees them.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headwise_exporter.data.base import DatasetError
from headwise_exporter.data.decoding import CHANNELS, TRANSFORM_VERSION, UnreadableImage, decode
from headwise_exporter.files import atomic_write
from headwise_exporter.progress import Progress

BATCH = 256  # images that may be decoded and not yet written
NAMED = 10  # bad files in one message


def cache_folder() -> Path:
    """`$HEADWISE_CACHE`, or else `$XDG_CACHE_HOME/headwise`, or else `~/.cache/headwise`."""
    if chosen := os.environ.get("HEADWISE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwise"


def _refuse(bad: Sequence[str], root: Path) -> None:
    """Raise when there are bad files."""
    if not bad:
        return
    more = "" if len(bad) < NAMED else " There may be more."
    lines = "\n".join(f"  {line}" for line in bad[:NAMED])
    raise DatasetError(f"{root}: cannot read these images; mend or remove them and run again.{more}\n{lines}")


def _cache_path(name: str, root: Path, files_N: Sequence[Path], size: int) -> Path:
    entries, missing = [], []
    for file in files_N:
        relative = file.relative_to(root).as_posix()
        try:
            status = file.stat()
        except OSError as error:
            missing.append(f"{relative}: {error.strerror or error}")
            continue
        entries.append([relative, status.st_size, status.st_mtime_ns])
    _refuse(missing, root)
    key = hashlib.sha256(json.dumps([name, size, TRANSFORM_VERSION, entries]).encode()).hexdigest()
    return cache_folder() / "images" / f"{name}-{size}px-{key[:16]}.npy"


def _open(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        # "c", as torch warns of arrays that cannot be written: writes stay in memory and never reach the file.
        images_NYXC = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    kind = (type(images_NYXC), getattr(images_NYXC, "shape", None), getattr(images_NYXC, "dtype", None))
    return images_NYXC if kind == (np.memmap, shape, np.uint8) and images_NYXC.flags.c_contiguous else None


def _write(file: BinaryIO, name: str, root: Path, files_N: Sequence[Path], size: int, progress: Progress) -> None:
    def attempt(path: Path) -> bytes | str:
        try:
            return decode(path, size).tobytes()
        except UnreadableImage as error:
            return f"{path.relative_to(root)}: {error}"

    shape = (len(files_N), size, size, CHANNELS)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    bad: list[str] = []
    # Written and not mapped: on a full disk a write is an error, a mapped page ends the process.
    with progress(f"decode {name}", len(files_N), "images") as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files_N), BATCH):
            for result in pool.map(attempt, files_N[start : start + BATCH]):
                bad.append(result) if isinstance(result, str) else file.write(result)
                advance()
            if len(bad) >= NAMED:
                break
    _refuse(bad, root)


def decoded(name: str, root: Path, files_N: Sequence[Path], size: int, progress: Progress) -> NDArray[np.uint8]:
    """The images of these files below `root`, in this order, as (N, size, size, 3) mapped from a file.

    Raises:
        DatasetError: images are missing, damaged, too large or not images; names the first ten.
        OutputError: the cache cannot be written.
    """
    path = _cache_path(name, root, files_N, size)
    shape = (len(files_N), size, size, CHANNELS)
    if (images_NYXC := _open(path, shape)) is not None:
        return images_NYXC
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        _write(file, name, root, files_N, size, progress)
    if (made := _open(path, shape)) is None:
        raise DatasetError(f"{path} is not what was written. Something else writes to it, or the disk fails.")
    return made
