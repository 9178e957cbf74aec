"""`folder:PATH`: any images, in one folder for each label.

Two layouts:
- `PATH/<label>/...`: each label's images are split 60/20/20 into training, validation and test, with a fixed seed; the
  validation and the test split get at least one each, so a label needs three images;
- `PATH/train/<label>/...`, `PATH/val/...` (or `valid`, `validation`) and `PATH/test/...`: the splits are as given, and
  must have the same labels, each with at least one image.
The second is taken when there is a folder `train` beside one of the others; a label may be called `train` otherwise.

Images may lie deeper below their label. Content says what is an image; a file that has an image's suffix and is
none is refused by name, other files are skipped, and so is everything whose name starts with a dot. Images are scaled
to 224 pixels a side unless another size is asked for, whatever their size.

Honest limit: the same picture under two names may come into two splits.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headwise_exporter.data.base import (
    Dataset,
    DatasetError,
    DatasetSettings,
    Split,
    SplitName,
    assemble,
    shuffled_by_label,
)
from headwise_exporter.data.cache import decoded
from headwise_exporter.progress import Progress

IMAGE_SIZE = 224
SHARE = 0.2  # of each label's images, for validation and for test
NEEDED = 3  # images of each label
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SPLIT_FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SIGNATURES = (
    rb"\xff\xd8\xff",  # JPEG
    rb"\x89PNG\r\n\x1a\n",
    rb"GIF8[79]a",
    rb"BM.{4}\0{4}",
    rb"II\*\0|MM\0\*",  # TIFF
    rb"RIFF.{4}WEBP",
)
SIGNATURE = re.compile(b"|".join(SIGNATURES), re.DOTALL)
SIGNATURE_BYTES = 16

Images = dict[str, list[Path]]  # of each label


def safe_name(path: str) -> str:
    """The folder's name, of letters, digits, `.`, `_` and `-`, to name a model by."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).absolute().name).strip("-._")
    return name or "folder"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return SIGNATURE.match(file.read(SIGNATURE_BYTES)) is not None


def _images(folder: Path) -> list[Path]:
    """Paths of all images below a folder, sorted."""
    images = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(where) / name for name in names if not name.startswith("."))
        images += [path for path in paths if path.is_file() and _is_image(path)]
    return sorted(images)


def _labelled(folder: Path, needed: int) -> Images:
    """Images of each label folder.

    Raises:
        DatasetError: there are fewer than two labels, or a label has fewer images than are needed.
    """
    images = {label.name: _images(label) for label in _folders(folder)}
    if not images:
        inside = "nothing" if not any(folder.iterdir()) else "files only"
        raise DatasetError(f"{folder}: expected a folder of images for each label, found {inside}.")
    if len(images) == 1:
        raise DatasetError(f"{folder}: expected at least 2 label folders, found 1: {next(iter(images))}.")
    short = [f"{label} has {len(paths)}" for label, paths in images.items() if len(paths) < needed]
    if short:
        raise DatasetError(
            f"{folder}: expected at least {needed} image{'s' if needed > 1 else ''} of each label, found: "
            f"{', '.join(short)}. Add images or remove the folder."
        )
    return images


def _split_folders(root: Path) -> dict[SplitName, Path] | None:
    """The folders of the splits, or None when the folders are labels.

    Raises:
        DatasetError: a split has no folder, or two.
    """
    there = {folder.name: folder for folder in _folders(root)}
    folders_of = {split: [there[name] for name in names if name in there] for split, names in SPLIT_FOLDERS.items()}
    if not folders_of["train"] or not (folders_of["validation"] or folders_of["test"]):
        return None
    for split, folders in folders_of.items():
        if len(folders) != 1:
            names = ", ".join(folder.name for folder in folders) or "none"
            wanted = " or ".join(SPLIT_FOLDERS[split])
            raise DatasetError(
                f"{root}: expected one folder {wanted} for {split}, found {names}. Give train, val and test, or label "
                "folders alone."
            )
    return {split: folders[0] for split, folders in folders_of.items()}


def _given(folders: Mapping[SplitName, Path]) -> dict[SplitName, Images]:
    splits = {split: _labelled(folder, needed=1) for split, folder in folders.items()}
    for split, images in splits.items():
        differing = sorted(set(images) ^ set(splits["train"]))
        if differing:
            raise DatasetError(
                f"{folders[split]}: expected the labels of {folders['train'].name}, found a difference in: "
                f"{', '.join(differing)}. Each split needs every label."
            )
    return splits


def _split(images: Images) -> dict[SplitName, Images]:
    labels_N = np.repeat(np.arange(len(images)), [len(paths) for paths in images.values()])
    starts = np.cumsum([0, *(len(paths) for paths in images.values())])
    splits: dict[SplitName, Images] = {split: {} for split in SPLITS}
    shuffled = shuffled_by_label(labels_N, len(images))
    for (label, paths), start, indices in zip(images.items(), starts, shuffled, strict=False):
        held_out = max(1, round(SHARE * len(paths)))
        chosen = {
            "test": indices[:held_out],
            "validation": indices[held_out : 2 * held_out],
            "train": indices[2 * held_out :],
        }
        for split in SPLITS:
            splits[split][label] = [paths[index - start] for index in np.sort(chosen[split])]
    return splits


def load(settings: DatasetSettings, progress: Progress) -> Dataset:
    """The images, as (N, size, size, 3).

    Raises:
        DatasetError: the folder is laid out otherwise, a label has too few images, or images cannot be read.
        OutputError: the cache cannot be written.
    """
    root, size = Path(settings.path), settings.image_size or IMAGE_SIZE
    folders = _split_folders(root)
    splits = _split(_labelled(root, NEEDED)) if folders is None else _given(folders)
    protocol = "stratified 60/20/20, seed 0"
    if folders is not None:
        protocol = f"as given by the folders {', '.join(folders[split].name for split in SPLITS)}"
    label_names = sorted(splits["train"])
    files = [path for split in SPLITS for label in label_names for path in splits[split][label]]
    labels_N = np.array(
        [index for split in SPLITS for index, label in enumerate(label_names) for _ in splits[split][label]], np.int64
    )
    numbers = {path: number for number, path in enumerate(sorted(files))}
    source_N = np.array([numbers[path] for path in files], np.int64)
    images_NYXC = decoded(safe_name(settings.path), root, files, size, progress)
    ends = np.cumsum([sum(map(len, splits[split].values())) for split in SPLITS])
    slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    made = {
        split: Split(images_NYXC[where], labels_N[where], source_N[where])
        for split, where in zip(SPLITS, slices, strict=True)
    }
    return assemble(settings, safe_name(settings.path), protocol, label_names, made, progress)
