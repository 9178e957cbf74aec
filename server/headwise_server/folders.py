"""What lies in a repository: `<name>/<version>` folders, what changes in them, and which version is pinned.

A version is a positive integer, written without a sign or leading zeros. Everything else in a repository, backups, the
exporter's unfinished folders, stray files, is skipped, and named so that it can be said once.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENGINE_CACHE = "engines"  # in a bundle's folder; engines write it
PIN = "pinned_version"
VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)

Signature = tuple[tuple[str, int, int, int], ...]  # relative path, bytes, time of change in nanoseconds, inode
GONE: Signature = ()


@dataclass
class Scan:
    """The folders of a repository."""

    versions: dict[str, dict[int, Path]] = field(default_factory=dict)  # by name and number
    skipped: list[str] = field(default_factory=list)  # what is no bundle and why, a line each


def _entries(folder: Path, scan: Scan) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError as error:
        scan.skipped.append(f"{folder} cannot be read: {error.strerror}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def scan(repository: Path) -> Scan:
    """Every folder of a repository that claims to be a bundle.

    Raises:
        OSError: the repository itself cannot be read.
    """
    result = Scan()
    for model in sorted(repository.iterdir()):
        if model.name.startswith(".") or not _is_folder(model):
            result.skipped.append(f"{model} is no folder of a model")
            continue
        versions: dict[int, Path] = {}
        for folder in _entries(model, result):
            if VERSION.fullmatch(folder.name) and _is_folder(folder):
                versions[int(folder.name)] = folder
            elif folder.name != PIN:
                result.skipped.append(f"{folder} is no folder of a version, a positive integer")
        if versions:
            result.versions[model.name] = versions
        else:
            result.skipped.append(f"{model} has no folder of a version")
    return result


def signature(folder: Path) -> Signature:
    """What changes when a bundle's files do; `GONE` where there is no file. No file is read."""
    files = []
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name != ENGINE_CACHE]
        for name in names:
            path = Path(parent, name)
            try:
                status = path.stat()
            except OSError:
                continue  # gone meanwhile: the signature says so
            files.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(files))


def pinned_version(model: Path) -> int | None:
    """The version that the file `pinned_version` in a model's folder names; None without that file.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    try:
        with (model / PIN).open("rb") as stream:
            text = stream.read(100).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    if not VERSION.fullmatch(text):
        raise ValueError(f"expected a positive integer in {model / PIN}, found {text!r}")
    return int(text)
