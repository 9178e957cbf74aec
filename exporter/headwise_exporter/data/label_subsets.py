"""Some labels of a data set, as a data set of its own; on request with one more label that stands for all others.

Every split keeps its images of the chosen labels. With `other` it also keeps as many images of the other labels, or all
where there are fewer, drawn with a fixed seed [our choice]. Normalisation stays that of the whole data set, because
models that were trained on it expect that. The images are copied into memory.

Shape suffixes as in `data.base`.
"""

import difflib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headwise_exporter.data.base import SEED, Dataset, DatasetError, Split

OTHER = "other"
FEWEST = 2  # labels, between which there is something to choose
NEAREST, SIMILAR = 3, 0.5  # names that a mistyped one is answered with, and how like it they are


def _unknown(name: str, known: Sequence[str]) -> str:
    folded = {label.casefold(): label for label in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, NEAREST, SIMILAR)]
    return f"{name!r} (nearest: {', '.join(near)})" if near else repr(name)


def check_labels(known: Sequence[str], chosen: Sequence[str], *, other: bool = False) -> None:
    """Check that labels can be chosen from those of a data set.

    Args:
        other: whether one more label is to stand for all others.

    Raises:
        DatasetError: a label is unknown or comes twice, there are fewer than two, or there is no other one.
    """
    if unknown := [_unknown(name, known) for name in chosen if name not in known]:
        raise DatasetError(
            f"expected labels of the data set, found {'; '.join(unknown)}. It has {len(known):,} labels."
        )
    if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
        raise DatasetError(f"expected each label once, found {', '.join(twice)} more than once.")
    if len(chosen) < FEWEST:
        raise DatasetError(f"expected at least {FEWEST} labels, found {len(chosen)}.")
    if other and len(chosen) == len(known):
        raise DatasetError(f"expected some labels that are not chosen for {OTHER!r} to stand for, found none.")
    if other and OTHER in known:
        raise DatasetError(f"expected no label of the name {OTHER!r}, which is to stand for the others; found one.")


def _chosen_images(split: Split, labels: Sequence[int], *, other: bool) -> NDArray[np.int64]:
    is_chosen_N = np.isin(split.labels_N, labels)
    chosen, others = np.flatnonzero(is_chosen_N), np.flatnonzero(~is_chosen_N)
    if not other:
        return chosen
    return np.sort(np.concatenate((chosen, np.random.RandomState(SEED).permutation(others)[: len(chosen)])))


def _chosen_split(split: Split, labels: Sequence[int], *, other: bool) -> Split:
    images = _chosen_images(split, labels, other=other)
    numbers = {label: number for number, label in enumerate(labels)}
    renumbered = [numbers.get(label, len(labels)) for label in split.labels_N[images].tolist()]
    return Split(split.images_NYXC[images], np.array(renumbered, np.int64), split.source_indices_N[images])


def choose_labels(dataset: Dataset, chosen: Sequence[str], *, other: bool = False) -> Dataset:
    """The data set of these labels, numbered in this order; `OTHER` comes last.

    Raises:
        DatasetError: as `check_labels`.
    """
    names = dataset.label_names
    check_labels(names, chosen, other=other)
    labels = [names.index(name) for name in chosen]
    train, validation, test = (
        _chosen_split(split, labels, other=other) for split in (dataset.train, dataset.validation, dataset.test)
    )
    remark = " and as many images of the others" if other else ""
    return replace(
        dataset,
        settings=replace(dataset.settings, labels=tuple(chosen), other=other),
        protocol=f"{dataset.protocol}; {len(labels)} of {len(names)} labels{remark}",
        label_names=(*chosen, OTHER) if other else tuple(chosen),
        train=train,
        validation=validation,
        test=test,
    )
