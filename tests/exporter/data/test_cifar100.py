"""CIFAR-100 from files in the official format, made small."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from headwise_exporter.data import cifar100
from headwise_exporter.data.base import Dataset, DatasetError, DatasetSettings
from headwise_exporter.data.datasets import load

TRAIN, TEST = 4, 2  # images a label


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: bytes as plain strings, and 0 and 1 for what is false and true."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def _save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    def _save_bool(self, value: bool) -> None:
        self.write(b"K\1" if value else b"K\0")

    dispatch[bytes], dispatch[bool] = _save_bytes, _save_bool


def official(content: Any) -> bytes:
    """A pickle as the official files are: by Python 2 and a NumPy of its time."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_images(path: Path, per_label: int, **changes: Any) -> None:
    """A file of images whose red, green and blue are label, 100 + label and number."""
    labels = list(range(100)) * per_label
    data = np.zeros((len(labels), 3, 1024), np.uint8)
    data[:, 0], data[:, 1] = np.array(labels)[:, None], 100 + np.array(labels)[:, None]
    data[:, 2] = np.arange(len(labels))[:, None] % 256
    content = {b"data": data.reshape(-1, 3072), b"fine_labels": labels, b"coarse_labels": labels} | changes
    path.write_bytes(official(content))


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CIFAR-100 of four training and two test images a label."""
    monkeypatch.setattr(cifar100, "TRAIN_PER_LABEL", TRAIN)
    monkeypatch.setattr(cifar100, "TEST_PER_LABEL", TEST)
    monkeypatch.setattr(cifar100, "VALIDATION_PER_LABEL", 1)
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    write_images(folder / "train", TRAIN)
    write_images(folder / "test", TEST)
    names = [b"aquarium_fish", *(b"label_%d" % label for label in range(1, 100))]
    (folder / "meta").write_bytes(official({b"fine_label_names": names}))
    return folder.parent


def loaded(data_dir: Path) -> Dataset:
    """The data set of that folder."""
    return load(DatasetSettings("cifar100", data_dir=str(data_dir)))


def test_official_images_are_split_as_stated(data_dir: Path) -> None:
    """So many of each label are held out of the official training images; the official test is the test split."""
    dataset = loaded(data_dir)
    for split, per_label in ((dataset.train, 3), (dataset.validation, 1), (dataset.test, 2)):
        assert np.bincount(split.labels_N).tolist() == [per_label] * 100
        assert split.images_NYXC.shape == (100 * per_label, 32, 32, 3)
        assert split.images_NYXC.flags.c_contiguous
    held = np.concatenate([dataset.train.source_indices_N, dataset.validation.source_indices_N])
    assert sorted(held.tolist()) == list(range(400))
    assert "official test; of the official training images 1 a label, seed 0, for validation" in dataset.describe()


def test_images_keep_their_labels_and_channels(data_dir: Path) -> None:
    """Planes become channels, and each image comes with its own label and number."""
    dataset = loaded(data_dir)
    for split in (dataset.train, dataset.validation, dataset.test):
        first_NC = split.images_NYXC[:, 5, 7]
        np.testing.assert_array_equal(first_NC[:, 0], split.labels_N)
        np.testing.assert_array_equal(first_NC[:, 1], split.labels_N + 100)
        np.testing.assert_array_equal(first_NC[:, 2], split.source_indices_N % 256)
    assert dataset.label_names[:2] == ("aquarium_fish", "label_1")


def test_split_never_changes(data_dir: Path) -> None:
    """Loading twice gives the same images in the same order."""
    first, second = loaded(data_dir), loaded(data_dir)
    np.testing.assert_array_equal(first.validation.source_indices_N, second.validation.source_indices_N)


class _Command:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickle_that_would_run_code_is_refused(data_dir: Path, tmp_path: Path) -> None:
    """A file that asks for a function is an error that names it, and the function is not called."""
    path = data_dir / "cifar-100-python" / "train"
    path.write_bytes(pickle.dumps({b"data": _Command(tmp_path / "hacked")}))
    with pytest.raises(DatasetError, match=r"train is not a file of CIFAR-100: it asks for .*, which no file of"):
        loaded(data_dir)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("call", [b"cposix\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."])
def test_hand_written_pickle_is_refused(data_dir: Path, call: bytes) -> None:
    """Neither a module's function nor a built-in one."""
    (data_dir / "cifar-100-python" / "meta").write_bytes(call)
    with pytest.raises(DatasetError, match=r"it asks for (posix.system|builtins.eval)"):
        loaded(data_dir)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({b"data": np.zeros((400, 3072), np.float32)}, "expected `data` as bytes and `fine_labels`"),
        ({b"data": np.zeros((399, 3072), np.uint8)}, r"expected 400 rows of 3,072 bytes, found \(399, 3072\)"),
        ({b"fine_labels": [0] * 400}, "expected 4 images of each label from 0 to 99"),
        ({b"fine_labels": ["a"] * 400}, "expected 4 images of each label from 0 to 99"),
        ({b"fine_labels": None}, "expected `data` as bytes and `fine_labels`"),
    ],
)
def test_unofficial_content_is_refused(data_dir: Path, changes: dict[Any, Any], expected: str) -> None:
    """Another kind, count or label than the official file's is an error that says which."""
    content = cifar100.read_pickle(data_dir / "cifar-100-python" / "train") | changes
    (data_dir / "cifar-100-python" / "train").write_bytes(official(content))
    with pytest.raises(DatasetError, match=expected):
        loaded(data_dir)


def test_truncated_file_is_refused(data_dir: Path) -> None:
    """Half a file is named."""
    path = data_dir / "cifar-100-python" / "test"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"cifar-100-python/test is not a file of CIFAR-100"):
        loaded(data_dir)


def test_incomplete_folder_is_not_overwritten(data_dir: Path) -> None:
    """A folder that lacks a file is named and left as it is."""
    (data_dir / "cifar-100-python" / "meta").unlink()
    with pytest.raises(DatasetError, match=r"expected train, test, meta, found no meta. Remove the folder"):
        loaded(data_dir)
