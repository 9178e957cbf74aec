"""Labelled images with a fixed division into training, validation and test splits.

`digits` needs no download; `cifar100` and `flowers102` are fetched from their official addresses; `folder:PATH` is
whatever images you have. One module each says where its images come from and how they are split.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from headwise_exporter.data import cifar100, digits, flowers102, folder
from headwise_exporter.data.base import Dataset, DatasetError, DatasetSettings, Split, SplitName
from headwise_exporter.data.label_subsets import choose_labels
from headwise_exporter.progress import Progress, silent

__all__ = [
    "DATASETS",
    "NAMES",
    "Dataset",
    "DatasetError",
    "DatasetSettings",
    "Split",
    "SplitName",
    "check_settings",
    "load",
    "model_name",
]

SMALLEST, LARGEST = 8, 1024  # pixels a side


@dataclass(frozen=True)
class Source:
    """One kind of data set, and which settings it takes."""

    load: Callable[[DatasetSettings, Progress], Dataset]
    image_size: int  # pixels a side, unless another size is asked for
    protocols: tuple[str, ...]  # the first is the default
    any_size: bool = False  # whether another size can be asked for
    takes_data_dir: bool = False


DATASETS: dict[str, Source] = {
    "digits": Source(digits.load, digits.IMAGE_SIZE, protocols=digits.PROTOCOLS),
    "cifar100": Source(cifar100.load, cifar100.IMAGE_SIZE, protocols=cifar100.PROTOCOLS, takes_data_dir=True),
    "flowers102": Source(
        flowers102.load, flowers102.IMAGE_SIZE, any_size=True, protocols=flowers102.PROTOCOLS, takes_data_dir=True
    ),
    "folder": Source(folder.load, folder.IMAGE_SIZE, any_size=True, protocols=folder.PROTOCOLS),
}
NAMES = tuple(f"{kind}:PATH" if kind == "folder" else kind for kind in DATASETS)


def _check_name(settings: DatasetSettings) -> None:
    is_folder = settings.kind == "folder"
    if settings.kind not in DATASETS or is_folder != bool(settings.path) or (not is_folder and ":" in settings.name):
        raise DatasetError(f"unknown data set {settings.name!r}; expected one of: {', '.join(NAMES)}.")
    if is_folder and not Path(settings.path).is_dir():
        raise DatasetError(f"{settings.path} is not a folder. Expected folder:PATH with one folder for each label.")


def _check_size(settings: DatasetSettings, source: Source) -> None:
    size = settings.image_size
    if size is None or size == source.image_size:
        return
    if not source.any_size:
        raise DatasetError(f"{settings.kind} has images of {source.image_size} pixels a side alone, found {size}.")
    if not SMALLEST <= size <= LARGEST:
        raise DatasetError(f"expected an image size from {SMALLEST} to {LARGEST} pixels a side, found {size}.")


def check_settings(settings: DatasetSettings) -> None:
    """Check at no cost whether there can be such a data set.

    Raises:
        DatasetError: the data set, the protocol or the size is unknown, or a folder is not there.
    """
    _check_name(settings)
    source = DATASETS[settings.kind]
    if settings.protocol is not None and settings.protocol not in source.protocols:
        known = ", ".join(source.protocols)
        raise DatasetError(f"unknown protocol {settings.protocol!r} of {settings.kind}; expected: {known}.")
    _check_size(settings, source)
    if settings.data_dir is None:
        return
    if not source.takes_data_dir:
        raise DatasetError(f"{settings.kind} takes no data folder, found {settings.data_dir}. Leave it out.")
    if Path(settings.data_dir).exists() and not Path(settings.data_dir).is_dir():
        raise DatasetError(f"expected a folder for the data, found the file {settings.data_dir}.")


def model_name(settings: DatasetSettings) -> str:
    """What a model of this data set is called by default: a folder's own name for `folder:PATH`."""
    return folder.safe_name(settings.path) if settings.kind == "folder" else settings.kind


def _absolute(settings: DatasetSettings) -> DatasetSettings:
    """The same from any working folder."""
    name, data_dir = settings.name, settings.data_dir
    if settings.kind == "folder":
        name = f"folder:{Path(settings.path).absolute()}"
    return replace(settings, name=name, data_dir=None if data_dir is None else str(Path(data_dir).absolute()))


def load(settings: DatasetSettings, progress: Progress = silent) -> Dataset:
    """The data set of these settings, fetched and decoded where that was not done before.

    Raises:
        DatasetError: there is none such, it cannot be fetched, its images cannot be read, or it lacks a label.
        OutputError: the download or the cache cannot be written.
    """
    check_settings(settings)
    whole = DATASETS[settings.kind].load(replace(_absolute(settings), labels=None, other=False), progress)
    return whole if settings.labels is None else choose_labels(whole, settings.labels, other=settings.other)
