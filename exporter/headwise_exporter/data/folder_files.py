"""The files of a folder of images: which are images, and what becomes of the others.

Content says what a file is, not its suffix; but a file with an image's suffix whose content is of no known kind counts
as an image, so that decoding refuses it by name instead of leaving it out. Nothing is left out without a reason that
can be said: `Folder.skipped`. Only what everybody expects to be left out goes unmentioned: files that start with a dot,
and what operating systems, editors and archivers leave behind (`LEFT_BEHIND`).

Linked folders are followed, each once below a folder, so that a link to a folder above does not go round for ever.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headwise.decoding import kind_of, readable
from headwise.text import shown

from headwise_exporter.data.base import DatasetError
from headwise_exporter.progress import Progress

DEEPEST = 64  # folders within each other
NAMED = 10  # files in one message
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
SUFFIXES |= {".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm"}
LEFT_BEHIND = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "thumbs.db"}
LEFT_BEHIND |= {"desktop.ini", ".git", ".ipynb_checkpoints", ".thumbnails", ".trashes", ".spotlight-v100", ".fseventsd"}
OTHER_FILE, HIDDEN_FOLDER = "other file", "hidden folder"
HEIC_ADVICE = "pip install 'headwise[heif]' to read them"


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is left out, and what it is: a kind of image, "broken link", "other file"."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Folder:
    """A folder, what it holds directly, and the folders in it by name; all in the order of their names."""

    path: Path
    folders: dict[str, "Folder"]
    images: tuple[Path, ...]
    skipped: tuple[Skipped, ...]

    def below(self) -> Iterator["Folder"]:
        """The folder itself, and all folders below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.below()

    def all_images(self) -> list[Path]:
        """Images here and below, sorted."""
        return sorted(path for folder in self.below() for path in folder.images)

    def all_skipped(self) -> list[Skipped]:
        """What is left out here and below."""
        return [skipped for folder in self.below() for skipped in folder.skipped]


@dataclass(frozen=True)
class _Listed:
    path: Path
    folders: dict[str, "_Listed"]
    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]

    def all_files(self) -> Iterator[Path]:
        yield from self.files
        for folder in self.folders.values():
            yield from folder.all_files()


def _is_left_behind(path: Path) -> bool:
    return path.name.lower() in LEFT_BEHIND or (path.name.startswith(".") and not path.is_dir())


def _listed(folder: Path, above: frozenset[tuple[int, int]], depth: int) -> _Listed:
    """What a folder holds, by names and links alone.

    Args:
        above: device and inode of the folders that lead here.
    """
    if depth > DEEPEST:
        raise DatasetError(f"{folder}: expected at most {DEEPEST} folders within each other, found more.")
    folders: dict[str, _Listed] = {}
    files: list[Path] = []
    skipped: list[Skipped] = []
    try:
        status = folder.stat()
        above |= {(status.st_dev, status.st_ino)}
        for path in sorted(path for path in folder.iterdir() if not _is_left_behind(path)):
            if path.name.startswith("."):
                skipped.append(Skipped(path, HIDDEN_FOLDER))
            elif path.is_dir():
                status = path.stat()
                if (status.st_dev, status.st_ino) in above:
                    skipped.append(Skipped(path, "link to a folder above"))
                else:
                    folders[path.name] = _listed(path, above, depth + 1)
            elif path.is_file():
                files.append(path)
            else:
                skipped.append(Skipped(path, "broken link" if path.is_symlink() else "device or socket"))
    except OSError as error:
        raise DatasetError(
            f"cannot read {error.filename or folder}: {error.strerror or error}. Allow it to be read, or move it away."
        ) from error
    return _Listed(folder, folders, tuple(files), tuple(skipped))


def _kind(path: Path) -> str | OSError:
    """What kind of image a file is, `OTHER_FILE`, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            kind = kind_of(file)
    except OSError as error:
        return error
    if kind is None and path.suffix.lower() in SUFFIXES:
        return readable()[0]  # so that decoding says what is wrong with it
    return kind or OTHER_FILE


def _kinds(files: Sequence[Path], progress: Progress, title: str) -> dict[Path, str]:
    kinds: dict[Path, str] = {}
    problems: list[str] = []
    with progress(title, len(files), "files") as advance, ThreadPoolExecutor() as pool:
        for path, kind in zip(files, pool.map(_kind, files), strict=True):
            if isinstance(kind, OSError):
                problems.append(f"  {shown(str(path))}: {kind.strerror or kind}")
            else:
                kinds[path] = kind
            advance()
    if problems:
        more = "" if len(problems) <= NAMED else f"\n  and {len(problems) - NAMED:,} more"
        lines = "\n".join(problems[:NAMED])
        raise DatasetError(f"cannot read these files; allow them to be read, or move them away:\n{lines}{more}")
    return kinds


def _sorted_out(listed: _Listed, kinds: dict[Path, str]) -> Folder:
    """The folder with its files sorted by kind; inner folders that hold nothing like images are left out."""
    folders = {name: _sorted_out(folder, kinds) for name, folder in listed.folders.items()}
    notes = {name: folder.all_skipped() for name, folder in folders.items() if _holds_nothing_like_images(folder)}
    read_here = readable()
    skipped = [Skipped(path, kinds[path]) for path in listed.files if kinds[path] not in read_here]
    return Folder(
        listed.path,
        {name: folder for name, folder in folders.items() if name not in notes},
        tuple(path for path in listed.files if kinds[path] in read_here),
        (*listed.skipped, *skipped, *(entry for entries in notes.values() for entry in entries)),
    )


def _holds_nothing_like_images(folder: Folder) -> bool:
    kinds = {entry.kind for entry in folder.all_skipped()}
    return not folder.all_images() and bool(kinds) and kinds <= {OTHER_FILE, HIDDEN_FOLDER}


def look_through(root: Path, progress: Progress) -> Folder:
    """Everything below a folder, sorted into images and what is left out.

    Raises:
        DatasetError: a folder or file cannot be read; names up to ten.
    """
    listed = _listed(root, frozenset(), 0)
    files = list(listed.all_files())
    return _sorted_out(listed, _kinds(files, progress, f"look through {root.name}"))


def describe_skipped(skipped: Sequence[Skipped]) -> str:
    """How many of which kind, the most first: "40 HEIC (...), 2 broken link"; empty where there are none."""
    counts = Counter(entry.kind for entry in skipped)
    named = []
    for kind, count in counts.most_common():
        suffixes = sorted({entry.path.suffix.lower() for entry in skipped if entry.kind == kind} - {""})
        hidden = sorted({shown(entry.path.name) for entry in skipped if entry.kind == HIDDEN_FOLDER})
        notes = {OTHER_FILE: suffixes[:4], HIDDEN_FOLDER: hidden[:4], "HEIC": [HEIC_ADVICE]}.get(kind, [])
        named.append(f"{count:,} {kind}" + (f" ({', '.join(notes)})" if notes else ""))
    return ", ".join(named)
