"""Folders of any images."""

from pathlib import Path

import numpy as np
import pytest
from headwise_exporter.data.base import Dataset, DatasetError, DatasetSettings
from headwise_exporter.data.datasets import load
from PIL import Image


def fill(folder: Path, images: int, colour: tuple[int, int, int] = (9, 9, 9), suffix: str = "png") -> None:
    """Fill a folder with small images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        Image.new("RGB", (9, 8), colour).save(folder / f"{number:03d}.{suffix}")


def loaded(root: Path) -> Dataset:
    """The data set of that folder at 8 pixels a side."""
    return load(DatasetSettings(f"folder:{root}", image_size=8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten red leaves, five green ones."""
    fill(tmp_path / "my leaves" / "red", 10, (200, 0, 0))
    fill(tmp_path / "my leaves" / "green", 5, (0, 200, 0))
    return tmp_path / "my leaves"


def test_labels_are_split_in_the_same_shares(root: Path) -> None:
    """60/20/20 of each label, every image in one split."""
    dataset = loaded(root)
    assert (dataset.name, dataset.label_names) == ("my-leaves", ("green", "red"))
    assert [np.bincount(dataset.split(name).labels_N).tolist() for name in ("train", "validation", "test")] == [
        [3, 6],
        [1, 2],
        [1, 2],
    ]
    splits = (dataset.train, dataset.validation, dataset.test)
    assert sorted(np.concatenate([split.source_indices_N for split in splits]).tolist()) == list(range(15))
    assert dataset.describe().endswith("(stratified 60/20/20, seed 0)")


def test_images_come_with_their_labels(root: Path) -> None:
    """Green leaves are labelled green, in each split, mapped from a file."""
    dataset = loaded(root)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert isinstance(split.images_NYXC, np.memmap)
        np.testing.assert_array_equal(split.images_NYXC[:, 0, 0, 0] > 100, split.labels_N == 1)


def test_split_never_changes(root: Path) -> None:
    """Loading twice gives the same images in the same order."""
    np.testing.assert_array_equal(loaded(root).test.source_indices_N, loaded(root).test.source_indices_N)


def test_given_parts_are_kept(tmp_path: Path) -> None:
    """Images in folders train, valid and test stay in these splits."""
    for split, images in (("train", 3), ("valid", 2), ("test", 1)):
        for label in ("a", "b"):
            fill(tmp_path / split / label, images)
    dataset = loaded(tmp_path)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [6, 4, 2]
    assert dataset.protocol == "as given by the folders train, valid, test"


def test_a_label_may_be_called_train(tmp_path: Path) -> None:
    """Without val or test beside it, `train` is a label like any other."""
    for label in ("train", "tram"):
        fill(tmp_path / label, 3)
    assert loaded(tmp_path).label_names == ("train", "tram")


def test_parts_with_other_labels_are_named(tmp_path: Path) -> None:
    """A label that one split lacks is an error that names both."""
    for split, labels in (("train", "abc"), ("val", "ab"), ("test", "abc")):
        for label in labels:
            fill(tmp_path / split / label, 1)
    with pytest.raises(DatasetError, match=r"val: expected the labels of train, found a difference in: c"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val"), "expected one folder test for test, found none"),
        (("train", "test"), "expected one folder val or valid or validation for validation, found none"),
        (("train", "val", "valid", "test"), "for validation, found val, valid"),
    ],
)
def test_missing_or_double_part_is_named(tmp_path: Path, folders: tuple[str, ...], expected: str) -> None:
    """Two splits of three, or two folders for one split, are an error that names the expected folders."""
    for folder in folders:
        fill(tmp_path / folder / "a", 3)
        fill(tmp_path / folder / "b", 3)
    with pytest.raises(DatasetError, match=expected):
        loaded(tmp_path)


def test_label_with_too_few_images_is_named(root: Path) -> None:
    """Name, count and need; an empty label folder too."""
    fill(root / "blue", 2)
    fill(root / "grey", 0)
    with pytest.raises(DatasetError, match=r"at least 3 images of each label, found: blue has 2, grey has 0"):
        loaded(root)


def test_three_images_are_enough(tmp_path: Path) -> None:
    """One in each split."""
    for label in ("a", "b"):
        fill(tmp_path / label, 3)
    dataset = loaded(tmp_path)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [2, 2, 2]


def test_folder_without_labels_says_what_is_expected(tmp_path: Path) -> None:
    """Nothing, images without a label folder, one label."""
    with pytest.raises(DatasetError, match=r"expected a folder of images for each label, found nothing"):
        loaded(tmp_path)
    fill(tmp_path, 3)
    with pytest.raises(DatasetError, match=r"expected a folder of images for each label, found files only"):
        loaded(tmp_path)
    fill(tmp_path / "a", 3)
    with pytest.raises(DatasetError, match=r"expected at least 2 label folders, found 1: a"):
        loaded(tmp_path)


def test_hidden_and_other_files_are_skipped(root: Path) -> None:
    """Thumbnails, notes and hidden folders do not count; images deeper down and without a suffix do."""
    fill(root / ".git", 3)
    fill(root / "red" / ".thumbnails", 3)
    (root / "red" / ".DS_Store").write_bytes(b"x")
    (root / "red" / "notes.txt").write_text("BMW parked beside the tree")
    fill(root / "red" / "more", 4)
    (root / "red" / "more" / "000.png").rename(root / "red" / "more" / "without")
    dataset = loaded(root)
    assert dataset.label_names == ("green", "red")
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 19


def test_damaged_image_is_named(root: Path) -> None:
    """A file that is called an image and is none is refused, not skipped."""
    (root / "red" / "003.png").write_text("x")
    with pytest.raises(DatasetError, match=r"red/003.png: no image that is read here"):
        loaded(root)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tiff"])
def test_every_kind_of_image_is_read(tmp_path: Path, suffix: str) -> None:
    """The content decides, even without a suffix."""
    for label in ("a", "b"):
        fill(tmp_path / label, 3, suffix=suffix)
        for path in (tmp_path / label).iterdir():
            path.rename(path.with_suffix(""))
    assert len(loaded(tmp_path).train) == 2


def test_settings_load_the_same_from_another_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the data set remembers of itself does not depend on the working folder."""
    monkeypatch.chdir(root.parent)
    dataset = load(DatasetSettings("folder:my leaves", image_size=8))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(load(dataset.settings).test.images_NYXC, dataset.test.images_NYXC)
