"""What does not stop a training on a folder of images, but may spoil it: said by name and count, one line each.

Two images are the same when their pixels are, as the model sees them: after decoding and scaling. So a copy under
another name, or in another lossless format, is seen; a copy that was cropped or compressed again is not.

Shape suffixes as in `data.base`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from headwise_exporter.data.base import Split, SplitName, first_few

FEWEST = 5  # images of a label in a split; an accuracy over fewer moves by a fifth or more with each [our choice]
IMBALANCE = 10  # times as many images of one label as of another [our choice]

Place = tuple[SplitName, int, str]  # split, label and file of an image


def _copies(splits: Mapping[SplitName, Split], files: Sequence[str]) -> Iterator[list[Place]]:
    """Each set of images that are the same, but for those that stand alone."""
    places: defaultdict[bytes, list[Place]] = defaultdict(list)
    names = iter(files)
    for name, split in splits.items():
        for image_YXC, label in zip(split.images_NYXC, split.labels_N, strict=True):
            digest = hashlib.blake2b(image_YXC.tobytes(), digest_size=16).digest()
            places[digest].append((name, int(label), next(names)))
    return (copies for copies in places.values() if len(copies) > 1)


def _duplicates(splits: Mapping[SplitName, Split], label_names: Sequence[str], files: Sequence[str]) -> list[str]:
    between_splits: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    between_labels = []
    for copies in _copies(splits, files):
        first_of_split: dict[str, str] = {}
        first_of_label: dict[int, str] = {}
        for split, label, file in copies:
            first_of_split.setdefault(split, file)
            first_of_label.setdefault(label, file)
        for one, other in combinations(first_of_split, 2):
            between_splits[one, other].append(f"{first_of_split[one]} = {first_of_split[other]}")
        if len(first_of_label) > 1:
            labels = " and ".join(label_names[label] for label in first_of_label)
            between_labels.append(f"{' = '.join(first_of_label.values())} ({labels})")
    lines = [
        f"the same image in two splits, {one} and {other}, so that accuracy is overstated: {len(pairs):,} "
        f"image{'s' if len(pairs) > 1 else ''}, {first_few(pairs)}"
        for (one, other), pairs in between_splits.items()
    ]
    if between_labels:
        images = f"{len(between_labels):,} image{'s' if len(between_labels) > 1 else ''}"
        lines.append(f"the same image under two labels: {images}, {first_few(between_labels)}")
    return lines


def _counts(splits: Mapping[SplitName, Split], label_names: Sequence[str]) -> list[str]:
    lines = []
    counts = {name: np.bincount(split.labels_N, minlength=len(label_names)) for name, split in splits.items()}
    train_K = counts["train"]
    most, fewest = int(train_K.argmax()), int(train_K.argmin())
    if train_K[most] >= IMBALANCE * train_K[fewest]:
        lines.append(
            f"strong imbalance: {train_K[most]:,} training images of {label_names[most]}, {train_K[fewest]:,} of "
            f"{label_names[fewest]}"
        )
    for name, counts_K in counts.items():
        few = [f"{label} ({count})" for label, count in zip(label_names, counts_K, strict=True) if count < FEWEST]
        if few:
            labels = "1 label" if len(few) == 1 else f"{len(few):,} labels"
            lines.append(f"fewer than {FEWEST} {name} images of {labels}: {first_few(few)}")
    return lines


def remarks(splits: Mapping[SplitName, Split], label_names: Sequence[str], files: Sequence[str]) -> list[str]:
    """One line for each thing that may spoil a training.

    Args:
        files: names of the images' files, in the order of the splits.
    """
    return _duplicates(splits, label_names, files) + _counts(splits, label_names)
