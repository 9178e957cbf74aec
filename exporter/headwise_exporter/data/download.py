"""Official files, fetched once, checked against their published checksums and unpacked.

A file that stands in the folder already, with the right checksum, is not fetched: whoever has no network puts it there.
A download that broke off stays as `<name>.part` and is gone on with where the server allows it (HTTP Range).
"""

import http.client
import math
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headwise_exporter.data.base import DatasetError, DatasetSettings
from headwise_exporter.data.cache import cache_folder
from headwise_exporter.files import atomic_folder
from headwise_exporter.progress import Advance, Progress

MIB = 1 << 20
TIMEOUT_SECONDS = 30.0  # without a byte
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class RemoteFile:
    """A file that anyone can fetch, and its published checksum."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def data_folder(settings: DatasetSettings) -> Path:
    """Where the original files lie or are put."""
    return Path(settings.data_dir) if settings.data_dir is not None else cache_folder() / "data"


def _open(url: str, start: int) -> Any:
    headers = {"User-Agent": "headwise"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)


def download(url: str, part: Path, progress: Progress) -> None:
    """Fetch an address into `part`, from where its content ends; what came stays there whatever happens.

    Raises:
        OSError: it cannot be had, or the connection ended early.
    """
    start = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, start)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code != RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # it is as long as the file or longer, and yet was not taken for it
        return download(url, part, progress)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server sends the whole file
        end = start + int(response.headers.get("Content-Length", 0))
        name, total = url.rpartition("/")[2], math.ceil(end / MIB) if end > start else None
        with progress(f"fetch {name}", total, "MiB") as advance, part.open("ab" if start else "wb") as file:
            advance(start // MIB, resumed=True)
            while chunk := response.read(MIB):
                file.write(chunk)
                advance()
    received = part.stat().st_size
    if received < end:
        raise ConnectionError(f"the connection ended after {received:,} of {end:,} bytes")


def _how_to_do_without(files: Sequence[RemoteFile], folder: Path) -> str:
    lines = [f"  {file.url} (md5 {file.md5})" for file in files]
    return "\n".join([f"Run again to go on, or put these files into {folder} yourself and run again:", *lines])


def fetch(files: Sequence[RemoteFile], folder: Path, progress: Progress) -> list[Path]:
    """Paths of the files in the folder, fetched where they are not there yet.

    Raises:
        DatasetError: a file cannot be had or is not the expected one. Names all of them, with address and checksum.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it tells of each file by itself

    def to(part: Path) -> Any:
        def downloader(url: str, output: str, _: Any) -> None:
            download(url, part, progress)
            part.replace(output)

        return downloader

    paths = []
    for file in files:
        part = folder / f"{file.name}.part"
        try:
            path = pooch.retrieve(file.url, f"md5:{file.md5}", file.name, folder, downloader=to(part))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DatasetError(f"cannot fetch {file.url}: {error}. {_how_to_do_without(files, folder)}") from error
        paths.append(Path(path))
    return paths


def _without_top_folder(archive: tarfile.TarFile, advance: Advance) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        advance()
        parts = PurePosixPath(member.name).parts[1:]
        if parts:
            yield member.replace(name=str(PurePosixPath(*parts)), deep=False)


def unpack(path: Path, folder: Path, progress: Progress) -> None:
    """Make `folder`, whole or not at all, of what the archive's one top folder holds.

    Raises:
        DatasetError: it is not a whole tar archive, or has members that would leave the folder.
        OutputError: the folder cannot be written.
    """
    try:
        with (
            atomic_folder(folder) as temporary,
            tarfile.open(path) as archive,
            progress(f"unpack {path.name}", None, "files") as advance,
        ):
            archive.extractall(temporary, _without_top_folder(archive, advance), filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise DatasetError(f"cannot unpack {path}: {error}. Remove it, so that it is fetched again.") from error
