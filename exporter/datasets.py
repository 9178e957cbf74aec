"""Labelled images with a fixed split into training, calibration and test parts.

`digits`: the 1,797 real scans of handwritten digits that scikit-learn ships (UCI "Optical recognition of handwritten
digits", test part), 8 x 8 pixels in 17 grey levels. They need no download. The split is stratified with a fixed seed
[our choice]: 1,078 training, 359 calibration and 360 test images.

Training sees the training part alone. Everything that chooses (probes' accuracy, clusters, pruning criteria) looks at
the calibration part. The test part is looked at once, for the reported accuracies.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

PartName = Literal["train", "calibration", "test"]


class DatasetError(Exception):
    """A data set is unknown or cannot be read."""


@dataclass(frozen=True)
class Part:
    """Images and their labels."""

    images_NYXC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    source_indices_N: NDArray[np.int64]  # of the images in the original data set

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class Dataset:
    """A data set at one size, ready to train on."""

    name: str
    split: str  # one line that says how the parts came about
    label_names: tuple[str, ...]
    mean: tuple[float, ...]  # of the training pixels, in units of 0..1, one for each channel
    std: tuple[float, ...]
    train: Part
    calibration: Part
    test: Part

    def part(self, name: PartName) -> Part:
        """The part of that name."""
        part: Part = getattr(self, name)
        return part

    def describe(self) -> str:
        """Name, split and image counts in one line."""
        counts = f"{len(self.train):,} training, {len(self.calibration):,} calibration, {len(self.test):,} test images"
        return f"{self.name}: {counts} ({self.split})"


def _channel_statistics(images_NYXC: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    scaled = images_NYXC / 255.0
    mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _load_digits() -> Dataset:
    scans: Any = load_digits()
    images_NYXC = np.round(scans.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels_N = scans.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(labels_N)), test_size=360, stratify=labels_N, random_state=0)
    train, calibration = train_test_split(rest, test_size=359, stratify=labels_N[rest], random_state=0)
    parts = {
        name: Part(images_NYXC[indices], labels_N[indices], indices)
        for name, indices in (("train", train), ("calibration", calibration), ("test", test))
    }
    mean, std = _channel_statistics(parts["train"].images_NYXC)
    names = tuple(str(name) for name in scans.target_names)
    return Dataset("digits", "stratified 60/20/20, seed 0", names, mean, std, **parts)


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _load_digits}


def check_name(name: str) -> None:
    """Check that there is a data set of that name.

    Raises:
        DatasetError: there is none.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; expected one of: {', '.join(sorted(DATASETS))}.")


def load(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        DatasetError: there is none.
    """
    check_name(name)
    return DATASETS[name]()
