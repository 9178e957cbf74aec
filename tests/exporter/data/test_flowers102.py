"""Flowers-102 from files in the official format, made small."""

from pathlib import Path

import numpy as np
import pytest
from headwise_exporter.data import flowers102
from headwise_exporter.data.base import Dataset, DatasetError, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.flowers102 import LABEL_NAMES
from PIL import Image
from scipy.io import savemat

LABELS = 3
COUNTS = {"trnid": 9, "valid": 9, "tstid": 12}
SETS = {"trnid": np.arange(30, 21, -1), "valid": np.arange(1, 10), "tstid": np.arange(10, 22)}


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a Flowers-102 of three labels; the brightness of an image is its number."""
    monkeypatch.setattr(flowers102, "IMAGES", COUNTS)
    monkeypatch.setattr(flowers102, "LABEL_NAMES", LABEL_NAMES[:LABELS])
    folder = tmp_path / "data" / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 31):
        Image.new("RGB", (12, 10), (8 * number,) * 3).save(folder / "jpg" / f"image_{number:05d}.jpg", quality=100)
    savemat(folder / "imagelabels.mat", {"labels": (np.arange(30) % LABELS + 1).astype(np.uint8)[None]})
    savemat(folder / "setid.mat", {name: numbers[None].astype(np.uint16) for name, numbers in SETS.items()})
    return folder.parent


def loaded(data_dir: Path, protocol: str | None = None) -> Dataset:
    """The data set of that folder at 8 pixels a side."""
    return load(DatasetSettings("flowers102", str(data_dir), protocol, 8))


def test_official_split_is_that_of_the_file(data_dir: Path) -> None:
    """Training, validation and test images as numbered in setid.mat, in its order."""
    dataset = loaded(data_dir)
    assert dataset.train.source_indices_N.tolist() == SETS["trnid"].tolist()
    assert sorted(dataset.validation.source_indices_N.tolist()) == SETS["valid"].tolist()
    assert dataset.test.source_indices_N.tolist() == SETS["tstid"].tolist()
    assert dataset.describe().endswith("(official)")


def test_trainval_split_holds_two_of_each_label_out_of_validation(data_dir: Path) -> None:
    """All of training and the rest of validation are trained on; the test split is the official one."""
    dataset = loaded(data_dir, "official-trainval")
    assert np.bincount(dataset.validation.labels_N).tolist() == [2, 2, 2]
    assert set(dataset.validation.source_indices_N.tolist()) < set(SETS["valid"].tolist())
    trained = dataset.train.source_indices_N.tolist() + dataset.validation.source_indices_N.tolist()
    assert sorted(trained) == sorted([*SETS["trnid"].tolist(), *SETS["valid"].tolist()])
    assert dataset.test.source_indices_N.tolist() == SETS["tstid"].tolist()
    assert "but for 2 a label, seed 0, that stay validation images [our choice]" in dataset.protocol


@pytest.mark.parametrize("protocol", ["official", "official-trainval"])
def test_images_keep_their_labels(data_dir: Path, protocol: str) -> None:
    """Each image comes with its own label and number, mapped from one slice of a file."""
    dataset = loaded(data_dir, protocol)
    for split in (dataset.train, dataset.validation, dataset.test):
        np.testing.assert_array_equal(split.labels_N, (split.source_indices_N - 1) % LABELS)
        np.testing.assert_allclose(split.images_NYXC[:, 4, 4, 0], 8 * split.source_indices_N, atol=1)
        assert isinstance(split.images_NYXC, np.memmap)
        assert split.images_NYXC.flags.c_contiguous


def test_both_splits_share_one_cache(data_dir: Path, cache: Path) -> None:
    """Decoding once is enough."""
    loaded(data_dir, "official")
    loaded(data_dir, "official-trainval")
    assert len(list(cache.rglob("*.npy"))) == 1


def test_table_has_a_name_for_each_label() -> None:
    """102 different names in the official order, without stray spaces."""
    assert len(set(LABEL_NAMES)) == len(LABEL_NAMES) == 102
    assert (LABEL_NAMES[0], LABEL_NAMES[53], LABEL_NAMES[101]) == ("pink primrose", "sunflower", "blackberry lily")
    assert all(name == name.strip() and "\n" not in name for name in LABEL_NAMES)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("imagelabels.mat", {"labels": np.ones((1, 30))}, r"expected labels 1 to 3 for 30 images, found 1 labels"),
        ("imagelabels.mat", {"labels": np.arange(29) % 3 + 1}, r"found 3 labels for 29"),
        ("imagelabels.mat", {"names": np.ones(3)}, r"imagelabels.mat: expected a MATLAB file with `labels`"),
        ("setid.mat", SETS | {"valid": np.arange(1, 9)}, r"'valid': 9.*found .*'valid': 8"),
        ("setid.mat", SETS | {"valid": np.arange(2, 11)}, r"each image once"),
    ],
)
def test_unofficial_list_is_refused(data_dir: Path, name: str, content: dict[str, np.ndarray], expected: str) -> None:
    """Another count, or an image in two splits, is an error that names the file."""
    savemat(data_dir / "flowers-102" / name, content)
    with pytest.raises(DatasetError, match=expected):
        loaded(data_dir)


def test_file_that_is_no_matlab_file_is_refused(data_dir: Path) -> None:
    """An error page saved in its place is refused."""
    (data_dir / "flowers-102" / "setid.mat").write_text("<html>" * 100)
    with pytest.raises(DatasetError, match=r"setid.mat: expected a MATLAB file with `trnid`"):
        loaded(data_dir)


def test_missing_photograph_is_named(data_dir: Path) -> None:
    """A folder that lacks a photograph is an error that names it."""
    (data_dir / "flowers-102" / "jpg" / "image_00007.jpg").unlink()
    with pytest.raises(DatasetError, match=r"jpg/image_00007.jpg: No such file"):
        loaded(data_dir)
