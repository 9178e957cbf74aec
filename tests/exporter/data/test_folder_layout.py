"""Which folders are labels, and which are splits."""

from collections.abc import Iterable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from headwise_exporter.data.base import DatasetError
from headwise_exporter.data.folder_files import Folder
from headwise_exporter.data.folder_layout import Layout, read_layout, split_of
from hypothesis import given


def tree(paths: Iterable[str], root: Path = Path("photos")) -> Folder:
    """A folder of images with these paths; one that ends with a slash is a folder without images."""
    inner: dict[str, list[str]] = {}
    images = []
    for path in paths:
        name, slash, rest = path.partition("/")
        if slash:
            inner.setdefault(name, []).extend([rest] if rest else [])
        else:
            images.append(root / name)
    folders = {name: tree(inner[name], root / name) for name in sorted(inner)}
    return Folder(root, folders, tuple(images), ())


def labelled(*folders: str, labels: str = "ab") -> list[str]:
    """An image of each label in each of these folders."""
    return [f"{folder}/{label}/1.jpg" for folder in folders for label in labels]


def shown(layout: Layout) -> dict[str, str]:
    """The folder of each split, from the root."""
    return {split: folder.path.as_posix() for split, folder in layout.splits.items()}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training", "validation", "testing"),
        ("seg_train", "seg_dev", "seg_test"),
        ("train_set", "valset", "TestSet"),
        ("asl_alphabet_train", "asl_alphabet_val", "asl_alphabet_test"),
        ("train2017", "val2017", "test2017"),
        ("training-images", "val", "Test Data"),
    ],
)
def test_splits_are_known_by_their_usual_names(train: str, validation: str, test: str) -> None:
    """In any case, with words beside them that all share or that say nothing."""
    layout = read_layout(tree(labelled(train, validation, test)))
    assert shown(layout) == {
        "train": f"photos/{train}",
        "validation": f"photos/{validation}",
        "test": f"photos/{test}",
    }


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "val"), {"train": "photos/Train", "validation": "photos/val"}),
        (("train", "test"), {"train": "photos/train", "test": "photos/test"}),
        (("dataset/train", "dataset/val"), {"train": "photos/dataset/train", "validation": "photos/dataset/val"}),
        (("s_train/s_train", "s_test/s_test"), {"train": "photos/s_train/s_train", "test": "photos/s_test/s_test"}),
        (("train",), {"train": "photos/train"}),
        (("trainval", "test"), {"train": "photos/trainval", "test": "photos/test"}),
        (("train/pets", "test/pets"), {"train": "photos/train/pets", "test": "photos/test/pets"}),
        (("flowers",), {"train": "photos/flowers"}),
    ],
)
def test_partial_and_nested_layouts_are_read(folders: tuple[str, ...], splits: dict[str, str]) -> None:
    """Two splits of three; all in one folder; each split doubled; one folder alone."""
    assert shown(read_layout(tree(labelled(*folders)))) == splits


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.jpg", "tram/1.jpg"],
        ["train_station/1.jpg", "test_tube/1.jpg"],
        ["train/steam/1.jpg", "tram/old/1.jpg"],
        ["cat/1.jpg", "dog/more/1.jpg"],
        ["cat/old/1.jpg", "cat/new/1.jpg", "dog/old/1.jpg"],
        ["train_station/old/1.jpg", "test_tube/glass/1.jpg"],
        ["test_positive/1.jpg", "test_negative/1.jpg"],
        ["valid/1.jpg", "invalid/1.jpg"],
    ],
)
def test_labels_may_have_any_name(paths: list[str]) -> None:
    """A folder is no split for its name alone."""
    assert shown(read_layout(tree(paths))) == {"train": "photos"}


@pytest.mark.parametrize(
    ("paths", "finding"),
    [
        (["train/1.jpg", "test/1.jpg"], "found images directly in test, train"),
        (["train/1.jpg", "test/1.jpg", "bus/1.jpg"], "found images directly in test, train"),
        ([*labelled("train", "test"), "bus/1.jpg"], "found bus beside test, train"),
        ([*labelled("train"), "bus/1.jpg"], "found label folders in train and none in bus"),
        (labelled("fold1", "fold2", "fold3"), "fold1, fold2, fold3 hold the same folders a, b"),
        (labelled("entrenamiento", "prueba"), "entrenamiento, prueba hold the same folders a, b"),
        ([*labelled("trn", labels="abc"), *labelled("tst")], "trn, tst hold the same folders a, b"),
        ([*labelled("one", labels="ab"), *labelled("two", labels="AB")], "one, two hold the same folders a, b"),
        ([*labelled("fold1", "fold2"), "fold1/1.jpg"], "fold1, fold2 hold the same folders a, b"),
        ([*labelled("fold1", "fold2"), "sample/1.jpg"], "fold1, fold2 hold the same folders a, b"),
        ([*labelled("train"), *labelled("eval", labels="a")], "eval, train hold the same folders a"),
        (labelled("first/train", "second/test"), "first, second hold the same folders a, b"),
        (["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg", "dog/test/1.jpg"], "test, train are splits of each"),
        ([*labelled("data/train", "data/test"), "sample/1.jpg"], "found splits in data"),
        (["train_cat/1.jpg", "train_dog/1.jpg", "test_cat/1.jpg", "test_dog/1.jpg"], "found images directly in"),
        (["cat/1.jpg", "dog/1.jpg", "test/1.jpg"], "found test beside them"),
        (["cat/1.jpg", "dog/1.jpg", "unlabeled/1.jpg"], "found unlabeled beside them"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_both(paths: list[str], finding: str) -> None:
    """The error says what was found, both readings, and how to choose one."""
    with pytest.raises(DatasetError) as caught:
        read_layout(tree(paths))
    message = str(caught.value)
    assert finding in message
    assert "Two readings: (1) " in message
    assert "; (2) " in message
    assert "--protocol labels" in message
    assert shown(read_layout(tree(paths), "labels")) == {"train": "photos"}


def test_few_images_beside_the_only_folder_change_nothing() -> None:
    """A picture beside an unpacked archive, or within a doubled split."""
    paths = [*labelled("data/train/train", "data/test", labels="abc"), "preview.jpg", "data/train/all.jpg"]
    layout = read_layout(tree(paths))
    assert shown(layout) == {"train": "photos/data/train/train", "test": "photos/data/test"}
    assert layout.names == {"train": "train", "test": "test"}


def test_protocol_splits_leaves_other_folders_out() -> None:
    """Asked for, what is no split is not used."""
    layout = read_layout(tree([*labelled("train", "test"), "bus/1.jpg"]), "splits")
    assert shown(layout) == {"train": "photos/train", "test": "photos/test"}
    assert [folder.path.name for folder in layout.unused] == ["bus"]


@pytest.mark.parametrize("unlabelled", ["test/1.jpg", "test/test/1.jpg", "seg_pred/1.jpg", "unlabeled/x/1.jpg"])
def test_images_without_labels_are_left_out(unlabelled: str) -> None:
    """A test split as competitions give it out, or images to predict, are no split and no label."""
    layout = read_layout(tree([*labelled("train", "val"), unlabelled]))
    assert set(layout.splits) == {"train", "validation"}
    assert [folder.path.name for folder in layout.unused] == [unlabelled.partition("/")[0]]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "valid", "test"), "expected one folder for the validation split, found val, valid"),
        (("Train", "train", "test"), "expected one folder for the train split, found Train, train"),
        (("val", "test"), "expected a folder for the training split, found test, val"),
    ],
)
def test_double_or_missing_split_is_named(folders: tuple[str, ...], expected: str) -> None:
    """Two folders for one split, or none for training."""
    with pytest.raises(DatasetError, match=expected):
        read_layout(tree(labelled(*folders)))


@given(st.text())
def test_any_name_announces_one_split_at_most(name: str) -> None:
    """Whatever a folder is called."""
    split = split_of(name)
    assert split is None or split[0] in ("train", "validation", "test")


@given(st.lists(st.lists(st.sampled_from(["train", "Test", "val", "a", "b", "1"]), min_size=1, max_size=4), min_size=1))
def test_every_tree_is_read_or_refused(paths: list[list[str]]) -> None:
    """Any folders: a layout whose splits hold images, or one clear error."""
    root = tree("/".join([*parts, "1.jpg"]) for parts in paths)
    try:
        layout = read_layout(root)
    except DatasetError:
        return
    assert "train" in layout.splits
