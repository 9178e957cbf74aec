"""What may spoil a training on a folder of images."""

import numpy as np
from headwise_exporter.data.base import Split, SplitName
from headwise_exporter.data.remarks import remarks

LABELS = ("cat", "dog")


def splits(**greys: list[tuple[int, int]]) -> dict[SplitName, Split]:
    """One image for each pair of a grey level and a label."""
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    return {
        name: Split(
            np.array([np.full((2, 2, 3), grey) for grey, _ in greys[name]], np.uint8),
            np.array([label for _, label in greys[name]], np.int64),
            np.arange(len(greys[name])),
        )
        for name in names
    }


def said(**greys: list[tuple[int, int]]) -> list[str]:
    """The remarks on such splits; files are numbered through."""
    made = splits(**greys)
    return remarks(made, LABELS, [f"{number}.png" for number in range(sum(map(len, made.values())))])


def spread(start: int, images: int = 10) -> list[tuple[int, int]]:
    """Images of their own, of both labels in turn."""
    return [(start + number, number % 2) for number in range(images)]


def test_good_data_is_passed_without_a_remark() -> None:
    """Different images, five or more of each label in each split."""
    assert said(train=spread(0), validation=spread(50), test=spread(100)) == []


def test_image_in_two_splits_is_named() -> None:
    """With both files, once for each pair of splits."""
    lines = said(train=spread(0), validation=spread(50), test=[*spread(100, 9), (3, 1)])
    assert lines == [
        "the same image in two splits, train and test, so that accuracy is overstated: 1 image, 3.png = 29.png"
    ]


def test_image_under_two_labels_is_named() -> None:
    """With both files and labels, in whatever splits they are."""
    lines = said(train=[*spread(0), (1, 0), (3, 0), (2, 0)], validation=spread(50), test=spread(100))
    assert lines == [
        "the same image under two labels: 2 images, 1.png = 10.png (dog and cat), 3.png = 11.png (dog and cat)"
    ]


def test_strong_imbalance_is_named() -> None:
    """The most and the least frequent label, with their counts."""
    train = [(number, 0) for number in range(50)] + [(100 + number, 1) for number in range(5)]
    lines = said(train=train, validation=spread(150), test=spread(200))
    assert lines == ["strong imbalance: 50 training images of cat, 5 of dog"]


def test_label_with_few_images_in_a_split_is_named() -> None:
    """Fewer than five, in any split, with the count."""
    lines = said(train=spread(0), validation=spread(50, 9), test=spread(100, 2))
    assert lines == [
        "fewer than 5 validation images of 1 label: dog (4)",
        "fewer than 5 test images of 2 labels: cat (1), dog (1)",
    ]
