"""Files and folders that appear whole or not at all.

Everything is written under a temporary name beside its destination, flushed to the disk and renamed. A full disk, an
error or an interrupt leaves the destination as it was and takes the temporary away; after a power cut or a SIGKILL
a temporary may stay behind, under a name (a leading dot, a trailing `.partial`) that no reader looks at.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headwise_exporter.errors import ExporterError

WINDOWS = os.name == "nt"  # opens no folders, and flushes only what is open for writing


class OutputError(ExporterError):
    """A result cannot be written where it was asked for."""


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _flush(path: Path) -> None:
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` when the block ends without an error.

    Raises:
        OutputError: the system refused a write (disk full, no permission); `path` is as it was.
    """
    temporary = _temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):  # where none could be made
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; renamed to `path` when the block ends without an error.

    A folder that stands at `path` is moved aside just before the rename and removed after it; if the rename fails it
    is put back.

    Raises:
        OutputError: the system refused a write (disk full, no permission); `path` is as it was.
    """
    temporary = _temporary_name(path)
    aside = _temporary_name(path.with_name(f"{path.name}.replaced"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        _replace_folder(temporary, path, aside)
        _flush(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _replace_folder(new: Path, path: Path, aside: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON, whole or not at all.

    Raises:
        OutputError: the system refused the write.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", "utf-8")


def check_writable(folder: Path) -> None:
    """Make the folder and write one byte into it, so that a long run does not fail at its end.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write to {folder}: {reason}. Choose a folder that you may write to.") from error
