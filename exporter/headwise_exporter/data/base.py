"""What every data set is: labelled images in three splits, and the mean and deviation of the training pixels.

Training sees the training split alone. Everything that chooses (probes' accuracy, clusters, pruning criteria) looks at
the validation split. The test split is looked at once, for the reported accuracies.

Shape suffixes: N images, Y rows, X columns, C channels, P pixels of all images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headwise_exporter.errors import ExporterError
from headwise_exporter.progress import Progress, silent

SplitName = Literal["train", "validation", "test"]

CHUNK_PIXELS = 1 << 17  # taken at a time; one MiB as float64
STD_MIN = 1 / 255  # a channel that is the same everywhere is divided by this: one grey level [our choice]
SEED = 0  # of every protocol that is our choice


class DatasetError(ExporterError):
    """A data set is unknown or cannot be read."""


@dataclass(frozen=True)
class DatasetSettings:
    """Which data set, from where and how; JSON-able by `dataclasses.asdict`."""

    name: str  # digits, cifar100, flowers102 or folder:PATH
    data_dir: str | None = None  # where the downloaded data lies or is put; a folder of the cache by default
    protocol: str | None = None  # the data set's first by default
    image_size: int | None = None  # pixels a side; the data set's own by default
    labels: tuple[str, ...] | None = None  # that are kept (`data.label_subsets`); all by default
    other: bool = False  # whether one more label stands for all that are not kept

    @property
    def kind(self) -> str:
        """The name without a path: digits, cifar100, flowers102 or folder."""
        return self.name.partition(":")[0]

    @property
    def path(self) -> str:
        """What stands after `folder:`; empty for the others."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images_NYXC: NDArray[np.uint8]  # in memory, or a slice of a memory-mapped file
    labels_N: NDArray[np.int64]
    source_indices_N: NDArray[np.int64]  # of the images in the original data set

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class Dataset:
    """A data set at one size, ready to train on."""

    name: str
    settings: DatasetSettings  # that load the same again
    protocol: str  # one line that says how the splits came about
    label_names: tuple[str, ...]
    mean: tuple[float, ...]  # of the training pixels, in units of 0..1, one for each channel
    std: tuple[float, ...]
    train: Split
    validation: Split
    test: Split
    remarks: tuple[str, ...] = ()  # what was left out, and what may spoil a training; a line each

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        split: Split = getattr(self, name)
        return split

    def describe(self) -> str:
        """Name, image counts, labels and protocol in one line."""
        counts = f"{len(self.train):,} training, {len(self.validation):,} validation, {len(self.test):,} test images"
        labels = f"{len(self.label_names):,} labels: {first_few(self.label_names)}"
        return f"{self.name}: {counts} of {labels} ({self.protocol})"


def first_few(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are: "cat, dog, hen and 7 more"."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def channel_statistics(
    images_NYXC: NDArray[np.uint8], progress: Progress = silent
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel's pixels, in units of 0..1; the latter is at least `STD_MIN`.

    Channel by channel, which is six times as fast as all at once, and in two passes over chunks, so that memory stays
    bounded for images that are mapped from a file.
    """
    pixels_PC = images_NYXC.reshape(-1, images_NYXC.shape[-1])
    pixels, channels = pixels_PC.shape
    chunks = [slice(start, start + CHUNK_PIXELS) for start in range(0, pixels, CHUNK_PIXELS)]
    mean, std = [], []
    with progress("mean and deviation", 2 * channels, "passes over the pixels") as advance:
        for channel in range(channels):
            pixels_P = pixels_PC[:, channel]
            mean.append(float(sum((pixels_P[chunk] / 255.0).sum() for chunk in chunks) / pixels))
            advance()
            squares = sum(((pixels_P[chunk] / 255.0 - mean[-1]) ** 2).sum() for chunk in chunks)
            std.append(max(math.sqrt(squares / pixels), STD_MIN))
            advance()
    return tuple(mean), tuple(std)


def assemble(
    settings: DatasetSettings,
    name: str,
    protocol: str,
    label_names: Sequence[str],
    splits: Mapping[SplitName, Split],
    progress: Progress,
    remarks: Sequence[str] = (),
) -> Dataset:
    """The data set of these splits, with the statistics of its training pixels."""
    mean, std = channel_statistics(splits["train"].images_NYXC, progress)
    return Dataset(
        name=name,
        settings=settings,
        protocol=protocol,
        label_names=tuple(label_names),
        mean=mean,
        std=std,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        remarks=tuple(remarks),
    )


def shuffled_by_label(labels_N: NDArray[np.int64], labels: int) -> list[NDArray[np.int64]]:
    """For each label the indices of its images, in an order that is random and always the same.

    The legacy generator, because NumPy promises that its stream never changes.
    """
    generator = np.random.RandomState(SEED)
    return [generator.permutation(np.flatnonzero(labels_N == label)) for label in range(labels)]
