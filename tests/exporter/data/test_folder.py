"""Folders of any images."""

import os
import sys
from pathlib import Path

import numpy as np
import processes
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


def test_labels_are_utf_8_in_any_locale(root: Path) -> None:
    """Where the locale says that names are ASCII, a label is the same word; a name that is no UTF-8 is refused."""
    fill(root / "数字", 5)
    code = """
import sys
from headwise_exporter.data.base import DatasetError, DatasetSettings
from headwise_exporter.data.datasets import load
try:
    print(ascii(load(DatasetSettings(f"folder:{sys.argv[1]}", image_size=8)).label_names))
except DatasetError as error:
    print(ascii(str(error)))
"""

    def labels() -> str:
        environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [sys.executable, "-c", code, str(root)]
        return processes.run(command, check=True, env=environment).stdout

    assert labels() == f"{('green', 'red', '数字')!a}\n"
    os.rename(root / "green", os.fsencode(root) + b"/gr\xfcn")  # noqa: PTH104  # a Path cannot spell it portably
    assert "expected a label's name in UTF-8, without control characters, found the folder b" in labels()


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


@pytest.mark.parametrize(("given", "drawn"), [("Val", "test"), ("testing", "validation")])
def test_missing_split_is_drawn_from_train(tmp_path: Path, given: str, drawn: str) -> None:
    """A fifth of each label's training images becomes the split that has no folder, and the protocol says so."""
    for label, images in (("a", 10), ("b", 5)):
        fill(tmp_path / "Train" / label, images)
        fill(tmp_path / given / label, 2)
    dataset = loaded(tmp_path)
    assert len(dataset.train) == 12
    assert np.bincount(dataset.split(drawn).labels_N).tolist() == [2, 1]
    assert len({*dataset.train.source_indices_N, *dataset.split(drawn).source_indices_N}) == 15
    names = ", ".join(sorted(["Train", given], key=["Train", "Val", "testing"].index))
    assert dataset.protocol == (
        f"as given by the folders {names}; {drawn} drawn from train, a fifth of each label, seed 0"
    )


def test_every_layout_of_the_same_images_has_the_same_labels(tmp_path: Path) -> None:
    """Label folders, splits under several names, nested once, and two splits of three."""
    layouts = {
        "labels": ["photos/{label}"],
        "splits": ["Train/{label}", "Val/{label}", "Test/{label}"],
        "doubled": ["seg_train/seg_train/{label}", "seg_test/seg_test/{label}"],
        "nested": ["data/training/{label}", "data/validation/{label}"],
        "no validation": ["train/{label}", "test/{label}"],
    }
    for name, folders in layouts.items():
        for folder in folders:
            for label in ("daisy", "rose"):
                fill(tmp_path / name / folder.format(label=label), 4)
        assert loaded(tmp_path / name).label_names == ("daisy", "rose"), name


def test_data_line_says_how_many_labels_and_names_the_first(tmp_path: Path) -> None:
    """What was taken for a label is seen at once."""
    for label in "abcde":
        fill(tmp_path / label, 3)
    assert "of 5 labels: a, b, c and 2 more (" in loaded(tmp_path).describe()


@pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", b"bell\x07"])
def test_label_that_cannot_be_printed_is_refused_before_anything_else(root: Path, name: bytes) -> None:
    """Not UTF-8, or with control characters: the error shows it in ASCII."""
    fill(Path(os.fsdecode(os.fsencode(root) + b"/" + name)), 3)
    with pytest.raises(DatasetError, match="expected a label's name in UTF-8, without control characters") as caught:
        loaded(root)
    assert str(caught.value).isascii()
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a$_$b", "\u82b1", "\u0648\u0631\u062f\u0629", "\U0001f33c", "50 %", "[red]", "<b>", "a{b}"]
)
def test_label_may_be_any_text(root: Path, name: str) -> None:
    """Any script and any sign that a file system takes."""
    fill(root / name, 3)
    assert name in loaded(root).label_names


def test_composed_and_decomposed_names_are_the_same_label(tmp_path: Path) -> None:
    """Splits that were copied from another file system fit together; two such folders side by side are refused."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for split, label in (("train", composed), ("val", decomposed)):
        fill(tmp_path / split / label, 3)
        fill(tmp_path / split / "tea", 3)
    assert loaded(tmp_path).label_names == (composed, "tea")
    fill(tmp_path / "train" / decomposed, 3)
    with pytest.raises(DatasetError, match="expected one folder for each label, found two"):
        loaded(tmp_path)


def test_what_is_left_out_is_said(root: Path) -> None:
    """Kinds that are not read, images beside the labels and images to predict; nothing where all is used."""
    assert not any("left out" in remark for remark in loaded(root).remarks)
    (root / "red" / "1.jxl").write_bytes(b"\xff\x0a\xfa\x1f")
    fill(root, 2)
    remarks = loaded(root).remarks
    assert "left out, as no images that are read here: 1 JPEG XL" in remarks
    assert "left out: 2 images beside the label folders" in remarks


def test_label_of_unreadable_files_alone_says_so(root: Path) -> None:
    """The error counts what the folder holds instead."""
    (root / "phone").mkdir()
    for number in range(4):
        (root / "phone" / f"{number}.jxl").write_bytes(b"\xff\x0a\xfa\x1f")
    with pytest.raises(DatasetError, match=r"phone has 0 \(left out: 4 JPEG XL\)"):
        loaded(root)


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
