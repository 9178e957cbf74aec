"""`folder:PATH`: any images, in one folder for each label.

Where labels and splits are is read from the folders (`folder_layout`); which files are images, from their content
(`folder_files`). Images may lie deeper below their label. A split that has no folder is drawn from the training images,
label by label, with a fixed seed: a fifth of each label, and at least one image. Images are scaled to 224 pixels a side
unless another size is asked for, whatever their size.

Labels are the names of the folders, in Unicode's composed form (NFC), so that the same name from two file systems is
the same label. What does not stop a training but may spoil it is said in the data set's remarks (`remarks`).
"""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from headwise_exporter.data.base import (
    Dataset,
    DatasetError,
    DatasetSettings,
    Split,
    SplitName,
    assemble,
    first_few,
    shuffled_by_label,
)
from headwise_exporter.data.cache import decoded
from headwise_exporter.data.folder_files import Folder, describe_skipped, look_through
from headwise_exporter.data.folder_layout import PROTOCOLS, Layout, read_layout
from headwise_exporter.data.remarks import remarks
from headwise_exporter.progress import Progress, counted

__all__ = ["IMAGE_SIZE", "PROTOCOLS", "load", "safe_name"]

IMAGE_SIZE = 224
HELD_OUT = 0.2  # of each label's images, for each split that is drawn
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, surrogates, line separators

Images = dict[str, list[Path]]  # of each label


def safe_name(path: str) -> str:
    """The folder's name, of letters, digits, `.`, `_` and `-`, to name a model by."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).absolute().name).strip("-._")
    return name or "folder"


def label_of(folder: Path) -> str:
    """The label that a folder's name is: its bytes as UTF-8, whatever encoding the locale says that names have.

    Raises:
        DatasetError: the name cannot be printed: it is not UTF-8, or has control characters.
    """
    encoded = os.fsencode(folder.name)
    label = encoded.decode("utf-8", "surrogateescape")
    if any(unicodedata.category(character) in UNPRINTABLE for character in label):
        raise DatasetError(
            f"expected a label's name in UTF-8, without control characters, found the folder {encoded!r} in "
            f"{str(folder.parent)!a}. Rename it."
        )
    return unicodedata.normalize("NFC", label)


def _labelled(folder: Folder, needed: int) -> Images:
    """Images of each label folder.

    Raises:
        DatasetError: there is no label, or there are two of the same name, or one with fewer images than are needed.
    """
    images: Images = {}
    short = []
    for inner in folder.folders.values():
        label = label_of(inner.path)
        if label in images:
            raise DatasetError(f"{folder.path}: expected one folder for each label, found two for {label}. Join them.")
        images[label] = inner.all_images()
        if len(images[label]) < needed:
            skipped = describe_skipped(inner.all_skipped())
            short.append(f"{label} has {len(images[label])}" + (f" (left out: {skipped})" if skipped else ""))
    if not images:
        inside = "files only" if folder.images or folder.skipped else "nothing"
        raise DatasetError(f"{folder.path}: expected a folder of images for each label, found {inside}.")
    if short:
        raise DatasetError(
            f"{folder.path}: expected at least {needed} image{'s' if needed > 1 else ''} of each label, found: "
            f"{first_few(short, 10)}. Add images or remove the folder."
        )
    return images


def _check_labels(layout: Layout, splits: Mapping[SplitName, Images]) -> None:
    """At least two labels, and the same in every split."""
    if len(splits["train"]) == 1:
        (label,) = splits["train"]
        raise DatasetError(f"{layout.splits['train'].path}: expected at least 2 label folders, found 1: {label}.")
    for split, images in splits.items():
        differing = sorted(set(images) ^ set(splits["train"]))
        if differing:
            raise DatasetError(
                f"{layout.splits[split].path}: expected the labels of {layout.names['train']}, found a "
                f"difference in: {first_few(differing, 10)}. Each split needs every label."
            )


def _drawn(images: Images, missing: Sequence[SplitName]) -> dict[SplitName, Images]:
    """The training images, and the missing splits drawn from them."""
    labels_N = np.repeat(np.arange(len(images)), [len(paths) for paths in images.values()])
    starts = np.cumsum([0, *(len(paths) for paths in images.values())])
    splits: dict[SplitName, Images] = {split: {} for split in (*missing, "train")}
    shuffled = shuffled_by_label(labels_N, len(images))
    for (label, paths), start, indices in zip(images.items(), starts, shuffled, strict=False):
        held_out = max(1, round(HELD_OUT * len(paths)))
        ends = [held_out * (number + 1) for number in range(len(missing))]
        for split, chosen in zip((*missing, "train"), np.split(indices, ends), strict=True):
            splits[split][label] = [paths[index - start] for index in np.sort(chosen)]
    return splits


def _divided(layout: Layout) -> tuple[dict[SplitName, Images], str]:
    """The images of each split and label, and one line that says how they came about."""
    missing: list[SplitName] = [split for split in ("test", "validation") if split not in layout.splits]
    splits = {
        split: _labelled(folder, needed=1 + len(missing) if split == "train" else 1)
        for split, folder in layout.splits.items()
    }
    _check_labels(layout, splits)
    splits |= _drawn(splits["train"], missing)
    if not layout.is_given:
        return splits, "stratified 60/20/20, seed 0"
    folders = [layout.names[split] for split in SPLITS if split in layout.splits]
    drawn = "".join(f"; {split} drawn from train, a fifth of each label, seed 0" for split in missing)
    return splits, f"as given by the folders {', '.join(folders)}{drawn}"


def load(settings: DatasetSettings, progress: Progress) -> Dataset:
    """The images, as (N, size, size, 3).

    Raises:
        DatasetError: the folder is laid out otherwise, a label has too few images, or images cannot be read.
        OutputError: the cache cannot be written.
    """
    root, size = Path(settings.path), settings.image_size or IMAGE_SIZE
    name = safe_name(settings.path)
    tree = look_through(root, progress)
    layout = read_layout(tree, settings.protocol or PROTOCOLS[0])
    divided, protocol = _divided(layout)
    label_names = sorted(divided["train"])
    files = [path for split in SPLITS for label in label_names for path in divided[split][label]]
    labels_N = np.array(
        [index for split in SPLITS for index, label in enumerate(label_names) for _ in divided[split][label]], np.int64
    )
    numbers = {path: number for number, path in enumerate(sorted(files))}
    source_N = np.array([numbers[path] for path in files], np.int64)
    images_NYXC = decoded(name, root, files, size, progress)
    ends = np.cumsum([sum(map(len, divided[split].values())) for split in SPLITS])
    slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    splits = {
        split: Split(images_NYXC[where], labels_N[where], source_N[where])
        for split, where in zip(SPLITS, slices, strict=True)
    }
    shown = [path.relative_to(root).as_posix() for path in files]
    notes = (*_left_out(tree, layout), *remarks(splits, label_names, shown))
    return assemble(settings, name, protocol, label_names, splits, progress, notes)


def _left_out(tree: Folder, layout: Layout) -> list[str]:
    """One line for each way in which something in the folder is not used."""
    lines = []
    if skipped := describe_skipped(tree.all_skipped()):
        lines.append(f"left out, as no images that are read here: {skipped}")
    for folder in layout.unused:
        images = counted(len(folder.all_images()), "images")
        lines.append(f"left out: {images} without a label in {folder.path.name}")
    used = sum(len(inner.all_images()) for folder in layout.splits.values() for inner in folder.folders.values())
    beside = len(tree.all_images()) - used - sum(len(folder.all_images()) for folder in layout.unused)
    if beside:
        lines.append(f"left out: {counted(beside, 'images')} beside the label folders")
    return lines
