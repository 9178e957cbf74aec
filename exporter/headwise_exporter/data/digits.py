"""`digits`: the 1,797 real scans of handwritten digits that scikit-learn ships.

UCI "Optical recognition of handwritten digits", test split: 8 x 8 pixels in 17 grey levels. They need no download. The
split is stratified with a fixed seed [our choice]: 1,078 training, 359 validation and 360 test images.
"""

from typing import Any

import numpy as np

from headwise_exporter.data.base import SEED, Dataset, DatasetSettings, Split, SplitName, assemble
from headwise_exporter.progress import Progress

IMAGE_SIZE = 8
PROTOCOLS = ("stratified",)


def load(settings: DatasetSettings, progress: Progress) -> Dataset:
    """The scans, as (N, 8, 8, 1)."""
    # scikit-learn takes a second to import, which `exporter --help` need not wait for.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans: Any = load_digits()
    images_NYXC = np.round(scans.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels_N = scans.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(labels_N)), test_size=360, stratify=labels_N, random_state=SEED)
    train, validation = train_test_split(rest, test_size=359, stratify=labels_N[rest], random_state=SEED)

    def split(indices: Any) -> Split:
        return Split(images_NYXC[indices], labels_N[indices], indices)

    splits: dict[SplitName, Split] = {"train": split(train), "validation": split(validation), "test": split(test)}
    names = [str(name) for name in scans.target_names]
    return assemble(settings, "digits", "stratified 60/20/20, seed 0", names, splits, progress)
