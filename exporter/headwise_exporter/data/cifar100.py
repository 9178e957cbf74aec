"""`cifar100`: 60,000 photographs of 32 x 32 pixels with 100 fine labels.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. Read from the official files
`cifar-100-python/{train,test,meta}`, which are fetched when they are not there.

Protocol `official`: the official 10,000 test images are the test split. Of the 50,000 training images 50 of each label,
chosen with a fixed seed, are the validation split and the other 45,000 the training split [our choice: the data set has
no validation split]. Published accuracies are of trainings on all 50,000.

The files are pickles, which can run any code when read carelessly. Here they can make arrays, and nothing else.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwise_exporter.data.base import (
    Dataset,
    DatasetError,
    DatasetSettings,
    Split,
    SplitName,
    assemble,
    shuffled_by_label,
)
from headwise_exporter.data.download import RemoteFile, data_folder, fetch, unpack
from headwise_exporter.progress import Progress

IMAGE_SIZE = 32
PROTOCOLS = ("official",)
LABELS = 100
TRAIN_PER_LABEL, TEST_PER_LABEL = 500, 100
VALIDATION_PER_LABEL = 50

FOLDER = "cifar-100-python"
FILES = ("train", "test", "meta")
ARCHIVE = RemoteFile("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85")
ADVICE = "Remove the folder, so that it is fetched again."


def _dtype(name: Any, align: Any = False, copy: Any = False) -> np.dtype[Any]:
    # The files were written by Python 2, whose 0 for False NumPy has deprecated.
    made: np.dtype[Any] = np.dtype(name, align=bool(align), copy=bool(copy))
    return made


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    # The function that arrays are unpickled with is private to NumPy; every array names it.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and the built-in containers; refuses everything else, above all functions to call."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no file of CIFAR-100 does") from None


def read_pickle(path: Path) -> dict[bytes, Any]:
    """What a file of the data set holds; its keys and strings are bytes.

    Raises:
        DatasetError: it is not such a file, is damaged, or asks for anything but arrays.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any
        raise DatasetError(f"{path} is not a file of CIFAR-100: {error}. {ADVICE}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a dictionary, found {type(content).__name__}. {ADVICE}")
    return content


def _read_images(path: Path, per_label: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images as (N, C, Y, X) and their labels, as many of each label as the official file has."""
    content = read_pickle(path)
    data, labels = content.get(b"data"), content.get(b"fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or not isinstance(labels, list):
        raise DatasetError(f"{path}: expected `data` as bytes and `fine_labels`, found {sorted(content)}. {ADVICE}")
    images, pixels = LABELS * per_label, 3 * IMAGE_SIZE**2
    if data.shape != (images, pixels):
        raise DatasetError(f"{path}: expected {images:,} rows of {pixels:,} bytes, found {data.shape}. {ADVICE}")
    if sorted(labels) != sorted(list(range(LABELS)) * per_label):
        raise DatasetError(f"{path}: expected {per_label} images of each label from 0 to {LABELS - 1}. {ADVICE}")
    return data.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE), np.array(labels, np.int64)


def _read_names(path: Path) -> list[str]:
    names = read_pickle(path).get(b"fine_label_names")
    if not isinstance(names, list) or len(names) != LABELS or not all(isinstance(name, bytes) for name in names):
        raise DatasetError(f"{path}: expected `fine_label_names` with {LABELS} names. {ADVICE}")
    return [name.decode("ascii", "replace") for name in names]


def _split_of(images_NCYX: NDArray[np.uint8], labels_N: NDArray[np.int64], indices: NDArray[np.int64]) -> Split:
    images_NYXC = np.ascontiguousarray(images_NCYX[indices].transpose(0, 2, 3, 1))
    return Split(images_NYXC, labels_N[indices], indices)


def _find(settings: DatasetSettings, progress: Progress) -> Path:
    folder = data_folder(settings) / FOLDER
    if not folder.exists():
        (archive,) = fetch([ARCHIVE], folder.parent, progress)
        unpack(archive, folder, progress)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"{folder}: expected {', '.join(FILES)}, found no {', '.join(missing)}. {ADVICE}")
    return folder


def load(settings: DatasetSettings, progress: Progress) -> Dataset:
    """The photographs, as (N, 32, 32, 3). Read again each time: there is nothing to decode.

    Raises:
        DatasetError: the files are not there and cannot be fetched, or are not the official ones.
    """
    folder = _find(settings, progress)
    rest_NCYX, rest_labels_N = _read_images(folder / "train", TRAIN_PER_LABEL)
    shuffled = shuffled_by_label(rest_labels_N, LABELS)
    validation = np.sort(np.concatenate([indices[:VALIDATION_PER_LABEL] for indices in shuffled]))
    train = np.sort(np.concatenate([indices[VALIDATION_PER_LABEL:] for indices in shuffled]))
    splits: dict[SplitName, Split] = {
        "train": _split_of(rest_NCYX, rest_labels_N, train),
        "validation": _split_of(rest_NCYX, rest_labels_N, validation),
    }
    del rest_NCYX
    test_NCYX, test_labels_N = _read_images(folder / "test", TEST_PER_LABEL)
    splits["test"] = _split_of(test_NCYX, test_labels_N, np.arange(len(test_labels_N)))
    protocol = (
        f"official test; of the official training images {VALIDATION_PER_LABEL} a label, seed 0, for validation"
        " [our choice]"
    )
    return assemble(settings, "cifar100", protocol, _read_names(folder / "meta"), splits, progress)
