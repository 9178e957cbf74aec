"""Which folders of a data set are its labels, and which are its splits.

People lay out images in three ways, in any case and under many names:
- one folder for each label;
- a folder for each split (`Train`, `validation`, `seg_test`), with a folder for each label in it;
- either of these in a single folder of its own, as archives unpack. Folders of splits may be doubled in the same way:
  `seg_train/seg_train/<label>`.

Names alone are not enough: labels may be called `train` and `tram`, or `test_tube` and `train_station`. So a folder is
a split when its name says so and it holds label folders. Where names and content disagree nothing is guessed: a model
that learns to tell training images from test images looks like a success. Nor is it where folders of any name hold the
same folders, as parts of a data set do: each with a label that another lacks, or in another case. Both readings are
then said, and the protocol `labels` or `splits` chooses one.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from headwise_exporter.data.base import DatasetError, SplitName
from headwise_exporter.data.folder_files import Folder

PROTOCOLS = ("auto", "labels", "splits")
SPLIT_WORDS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
FILLERS = ("data", "dataset", "folder", "image", "images", "img", "imgs", "photos", "set", "split")  # say nothing
SPLIT_WORD = re.compile(f"({'|'.join(SPLIT_WORDS)})(?:{'|'.join(FILLERS)})?")  # "train", "trainset"
UNLABELLED = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "inference", "submission"}
HELD_OUT: tuple[tuple[SplitName, frozenset[str]], ...] = (("validation", frozenset()), ("test", frozenset()))
NAMED = 5  # folders in one message


@dataclass(frozen=True)
class Layout:
    """Where the labels are: the folders in each of these are the labels of that split."""

    splits: Mapping[SplitName, Folder]  # at least the training split; the others are to be drawn from it
    names: Mapping[SplitName, str]  # of the folders that announced them
    unused: tuple[Folder, ...]  # beside them, with images

    @property
    def is_given(self) -> bool:
        """Whether the images are divided into splits, fully or in part."""
        return len(self.splits) > 1


def _words(name: str) -> list[str]:
    """The words of a name in lower case: of "TrainSet_2" train and set."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+", parted)]


def split_of(name: str) -> tuple[SplitName, frozenset[str]] | None:
    """The split that a folder's name announces, and the words beside it that say something; None for other names."""
    words = _words(name)
    matches = [match for word in words if (match := SPLIT_WORD.fullmatch(word))]
    if len(matches) != 1:
        return None
    rest = {word for word in words if not SPLIT_WORD.fullmatch(word) and word not in FILLERS}
    return SPLIT_WORDS[matches[0][1]], frozenset(rest)


def _is_unlabelled(folder: Folder) -> bool:
    return bool(UNLABELLED.intersection(_words(folder.path.name)))


def _may_be_no_label(folder: Folder) -> bool:
    """Whether its name says nothing but what its images are for; `train` and `valid` are labels as well."""
    words = {word for word in _words(folder.path.name) if word not in FILLERS}
    if split_of(folder.path.name) in HELD_OUT:
        return "valid" not in words
    return bool(words) and words <= UNLABELLED


def _has_images(folder: Folder) -> bool:
    return any(inner.images for inner in folder.below())


def _holds_labels(folder: Folder) -> bool:
    """Whether its images lie in folders of it; a few beside those change nothing."""
    return len(folder.all_images()) > 2 * len(folder.images)


def _holds_labels_of(folder: Folder, labels: Container[str]) -> bool:
    """Whether a split has labels: one folder alone, of another name, is what unlabelled images are put into."""
    return _holds_labels(folder) and (len(folder.folders) > 1 or any(name in labels for name in folder.folders))


def _unwrapped(folder: Folder) -> Folder:
    """What a folder holds, where it holds one folder of folders alone, and at most a few images."""
    if len(folder.folders) != 1 or not _holds_labels(folder):
        return folder
    (only,) = folder.folders.values()
    return _unwrapped(only) if _holds_labels(only) else folder


def _names(folders: Iterable[Folder]) -> str:
    names = [folder.path.name for folder in folders]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _refuse(root: Folder, parts: Sequence[Folder], finding: str) -> NoReturn:
    raise DatasetError(
        f"{root.path}: expected splits or labels, found {finding}. Two readings: (1) {_names(parts)} "
        f"{'are splits' if len(parts) > 1 else 'is a split'}, with a folder for each label in it: --protocol splits; "
        f"(2) {_names(root.folders.values())} are the labels: --protocol labels. Choose one, or rename or move folders."
    )


def _as_labels(root: Folder) -> Layout:
    return Layout({"train": root}, {"train": root.path.name}, ())


def _parts(root: Folder) -> dict[SplitName, list[Folder]]:
    """The folders whose names announce each split."""
    announced: dict[SplitName, list[Folder]] = {}
    for name, folder in root.folders.items():
        if (split := split_of(name)) is not None:
            announced.setdefault(split[0], []).append(folder)
    return announced


def _as_splits(root: Folder, announced: Mapping[SplitName, list[Folder]]) -> Layout:
    for split, folders in announced.items():
        if len(folders) > 1:
            raise DatasetError(
                f"{root.path}: expected one folder for the {split} split, found {_names(folders)}. Join them, or move "
                "all but one away."
            )
    if "train" not in announced:
        there = _names(folder for folders in announced.values() for folder in folders) or "none"
        raise DatasetError(f"{root.path}: expected a folder for the training split, found {there}. Name it train.")
    splits = {split: _unwrapped(folders[0]) for split, folders in announced.items()}
    labels = splits["train"].folders
    labelled = {
        split: folder for split, folder in splits.items() if split == "train" or _holds_labels_of(folder, labels)
    }
    used = {split: folders[0] for split, folders in announced.items() if split in labelled}
    others = [folder for folder in root.folders.values() if folder not in used.values()]
    names = {split: folder.path.name for split, folder in used.items()}
    return Layout(labelled, names, tuple(filter(_has_images, others)))


def _refuse_data_sets_within(root: Folder) -> None:
    """Refuse a folder that holds splits, beside others."""
    within = [
        folder
        for folder in root.folders.values()
        if len(parts := _parts(folder)) > 1 and any(_holds_labels(part) for one in parts.values() for part in one)
    ]
    if within:
        raise DatasetError(
            f"{root.path}: expected splits or labels, found splits in {_names(within)}. Two readings: (1) the data set "
            f"is {within[0].path}: choose folder:{within[0].path}; (2) {_names(root.folders.values())} are the labels: "
            "choose --protocol labels."
        )


def _inner_names(folder: Folder) -> set[str]:
    """The folders in it that may be labels, in lower case; none of a folder that holds images themselves."""
    unwrapped = _unwrapped(folder)
    holding = [name.casefold() for name, inner in unwrapped.folders.items() if _has_images(inner)]
    return set(holding) if _holds_labels(unwrapped) else set()


def _refuse_same_inner_folders(root: Folder, needed: int) -> None:
    """Refuse folders that hold the same folders, as folds of a cross-validation do.

    Args:
        needed: folders of the same name that are enough, if they are half of those in one folder.
    """
    names = {folder.path.name: _inner_names(folder) for folder in root.folders.values()}
    counts = Counter(name for inner in names.values() for name in inner)
    shared = {name for name, count in counts.items() if count > 1}
    if not any(len(inner & shared) >= needed and 2 * len(inner & shared) >= len(inner) for inner in names.values()):
        return
    same = ", ".join(sorted(shared)[:NAMED])
    parts = _names(folder for folder in root.folders.values() if shared & names[folder.path.name])
    if all(split_of(name) for name in shared):
        first = f"{same} are splits of each label: make them the outer folders, train/<label>"
    else:
        first = f"the labels are {same}, and {parts} are parts of the data set: name those train, val and test, or "
        first += "move their images together"
    raise DatasetError(
        f"{root.path}: {parts} hold the same folders {same}. Two readings: (1) {first}; (2) "
        f"{_names(root.folders.values())} are the labels: choose --protocol labels."
    )


def read_layout(root: Folder, protocol: str = "auto") -> Layout:
    """Where a data set's labels and splits are.

    Args:
        protocol: "labels" or "splits" to say what the folders are; "auto" to go by names and content.

    Raises:
        DatasetError: the folders can be read in two ways; a split has two folders; there is none for training.
    """
    root = _unwrapped(root)
    announced = _parts(root)
    if protocol == "auto":
        protocol = _reading(root, [folder for folders in announced.values() for folder in folders])
    return _as_splits(root, announced) if protocol == "splits" else _as_labels(root)


def _reading(root: Folder, parts: list[Folder]) -> str:
    """How the folders are to be read, "labels" or "splits".

    Args:
        parts: the folders whose names announce a split.
    """
    others = [
        folder
        for folder in root.folders.values()
        if folder not in parts and _has_images(folder) and not _is_unlabelled(folder)
    ]
    labelled = [folder for folder in map(_unwrapped, parts) if _holds_labels(folder)]
    rests = {split[1] for folder in parts if (split := split_of(folder.path.name))}
    if len(parts) > 1 and (len(rests) < len(parts) or _share_labels(labelled)):
        if labelled and not others:
            return "splits"
        between = f"{_names(others)} beside {_names(parts)}" if labelled else f"images directly in {_names(parts)}"
        _refuse(root, parts, between)
    if len(parts) == 1 and labelled:
        if not others:
            return "splits"
        if not all(map(_holds_labels, others)):
            _refuse(root, parts, f"label folders in {_names(parts)} and none in {_names(others)}")
    _refuse_data_sets_within(root)
    _refuse_same_inner_folders(root, needed=1 if labelled else 2)
    if uncertain := [folder for folder in root.folders.values() if _has_images(folder) and _may_be_no_label(folder)]:
        _refuse_uncertain(root, uncertain)
    return "labels"


def _refuse_uncertain(root: Folder, folders: Sequence[Folder]) -> NoReturn:
    raise DatasetError(
        f"{root.path}: expected labels, found {_names(folders)} beside them. Two readings: (1) images in "
        f"{_names(folders)} have no label: move them away; (2) {_names(root.folders.values())} are the labels: choose "
        "--protocol labels."
    )


def _share_labels(parts: list[Folder]) -> bool:
    """Whether a folder of the same name lies in two of these."""
    names = [name for folder in parts for name in folder.folders]
    return len(set(names)) < len(names)
