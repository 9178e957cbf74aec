"""The golden set: inputs of a bundle's graphs, and every output that they must give.

Validation images with what torch computes for them, so that any engine on any machine can be checked without torch and
without the data set.

Targets are ranks and positions. A rank stands only where the logits beside it are so far apart that no engine in a
narrower type may change their order: the split of another label would be no defect. Silent are no head, each head
alone, and sets of heads, over the images in turn.

Shape suffixes as in `headwise.graphs`.
"""

from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from headwise.graphs import GOLDEN_TARGETS, MAPS_GRAPH, OUTPUTS, SPLIT
from numpy.typing import NDArray

from headwise_exporter.data.base import Dataset
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.export.maps import TokenMaps
from headwise_exporter.export.silencing import SilencedHeads

IMAGES = 32
TOLERANCE_REDUCED = 0.05  # of the logits' range


def tolerance_reduced(logits_NK: NDArray[Any]) -> float:
    """How far a logit in bf16 or float16 may be off."""
    return TOLERANCE_REDUCED * float(np.ptp(logits_NK))


def targets_of(logits_NK: NDArray[Any]) -> NDArray[np.int64]:
    """Targets (N, J): ranks -1, -2, ... where the order is sure, else and in the last column labels in turn."""
    images, labels = logits_NK.shape
    count = min(GOLDEN_TARGETS, labels)
    gaps_NK = -np.diff(-np.sort(-logits_NK, axis=1), axis=1, prepend=np.inf, append=-np.inf)
    apart_NK = gaps_NK > 2 * tolerance_reduced(logits_NK)  # both may be off
    sure_NJ = (apart_NK[:, :-1] & apart_NK[:, 1:])[:, :count]
    sure_NJ[:, -1] = False
    turns_NJ = (np.arange(images)[:, None] + np.arange(count)) % labels
    return np.where(sure_NJ, -1 - np.arange(count), turns_NJ)


def silenced_of(images: int, heads: int) -> NDArray[np.bool_]:
    """Heads that are silent (N, R): none, then a set and a head alone by turns."""
    silenced_NR = np.random.default_rng(0).random((images, heads)) < 0.5
    silenced_NR[::2] = np.array([*islice(cycle(np.eye(heads, dtype=bool)), len(silenced_NR[::2]))])
    silenced_NR[:1] = False
    return silenced_NR


@torch.no_grad()
def golden_set(split: ExactSplit, silenced: SilencedHeads, dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Inputs spread over the validation images, and every output that they must give, by name."""
    images_NYXC = dataset.validation.images_NYXC
    chosen = np.linspace(0, len(images_NYXC) - 1, min(IMAGES, len(images_NYXC))).round().astype(int)
    images = torch.from_numpy(images_NYXC[chosen])
    outputs: dict[str, torch.Tensor] = split(images)
    targets_NJ = targets_of(outputs["logits"].numpy())
    silenced_NR = silenced_of(len(images), outputs["heads"].shape[1])
    maps = TokenMaps(split)(images, torch.from_numpy(targets_NJ))
    outputs |= {name: maps[name] for name in OUTPUTS[MAPS_GRAPH] if name not in SPLIT}
    outputs["silenced_logits"] = silenced(images, torch.from_numpy(silenced_NR))
    inputs = {"images": images.numpy(), "targets": targets_NJ, "silenced": silenced_NR}
    return inputs | {name: value.numpy() for name, value in outputs.items()}
