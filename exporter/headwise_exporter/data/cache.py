"""Images that were decoded once, in a file that later runs map into memory.

The name of a cache file holds a hash of everything its content depends on: data set, size, the transformation's version
and of each file the relative path, size, inode and times of change. One of these times is kept by the system alone, so
that a file which is replaced by another of the same size and date is noticed. A changed image makes another cache file.
Those that were not used for longest are deleted before the folder grows beyond `HEADWISE_CACHE_GIB`, 20 by default; the
one that is asked for is made whatever its size. A file of the wrong length or kind is made again. Flipped bits within
the pixels are not seen here: the runs' fingerprint of all pixels sees them.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from headwise.cores import usable_cores
from headwise.decoding import TRANSFORM_VERSION, UnreadableImage, decode
from headwise.text import shown
from numpy.typing import NDArray

from headwise_exporter.data.base import DatasetError
from headwise_exporter.files import atomic_write
from headwise_exporter.progress import Progress

BATCH = 256  # images that may be decoded and not yet written
CHANNELS = 3
NAMED = 10  # bad files in one message
LIMIT_GIB = 20.0  # of all cache files together
ABANDONED_SECONDS = 24 * 3600  # without a write; then whoever wrote a temporary file was killed


def cache_folder() -> Path:
    """`$HEADWISE_CACHE`, or else `$XDG_CACHE_HOME/headwise`, or else `~/.cache/headwise`."""
    if chosen := os.environ.get("HEADWISE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwise"


def cache_limit_bytes() -> int:
    """`$HEADWISE_CACHE_GIB`, or else 20 GiB.

    Raises:
        DatasetError: it is not a positive number.
    """
    given = os.environ.get("HEADWISE_CACHE_GIB") or str(LIMIT_GIB)
    try:
        limit_gib = float(given)
    except ValueError:
        limit_gib = math.nan
    if not (limit_gib > 0 and math.isfinite(limit_gib)):
        raise DatasetError(f"expected a positive number of GiB in HEADWISE_CACHE_GIB, found {given!r}.")
    return int(limit_gib * (1 << 30))


def make_room(folder: Path, needed_bytes: int) -> None:
    """Delete what was not used for longest, until so many bytes more are within the limit, and what was abandoned.

    On Linux and macOS a run that has a deleted file mapped keeps it until it ends; Windows does not delete it.
    """
    for path in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()
    files = []
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    excess_bytes = sum(size for _, size, _ in files) + needed_bytes - cache_limit_bytes()
    for _, size, path in sorted(files):
        if excess_bytes <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            excess_bytes -= size


def _refuse(bad: Sequence[str], root: Path) -> None:
    """Raise when there are bad files."""
    if not bad:
        return
    more = "" if len(bad) < NAMED else " There may be more."
    lines = "\n".join(f"  {line}" for line in sorted(bad)[:NAMED])
    raise DatasetError(f"{root}: cannot read these images; mend or remove them and run again.{more}\n{lines}")


def _cache_path(name: str, root: Path, files_N: Sequence[Path], size: int) -> Path:
    entries, missing = [], []
    for file in files_N:
        relative = file.relative_to(root).as_posix()
        try:
            status = file.stat()
        except OSError as error:
            missing.append(f"{shown(relative)}: {error.strerror or error}")
            continue
        entries.append([relative, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns])
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
            return decode(path, size, size).tobytes()
        except UnreadableImage as error:
            return f"{shown(path.relative_to(root).as_posix())}: {error}"

    shape = (len(files_N), size, size, CHANNELS)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    bad: list[str] = []
    # Written and not mapped: on a full disk a write is an error, a mapped page ends the process.
    with progress(f"decode {name}", len(files_N), "images") as advance, ThreadPoolExecutor(usable_cores()) as pool:
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
        DatasetError: images are missing, damaged, too large or not images (names the first ten); or the cache's
            limit is no number.
        OutputError: the cache cannot be written.
    """
    path = _cache_path(name, root, files_N, size)
    shape = (len(files_N), size, size, CHANNELS)
    if (images_NYXC := _open(path, shape)) is not None:
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path)  # used now
        return images_NYXC
    make_room(path.parent, math.prod(shape))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        _write(file, name, root, files_N, size, progress)
    if (made := _open(path, shape)) is None:
        raise DatasetError(f"{path} is not what was written. Something else writes to it, or the disk fails.")
    return made
