"""Small pictures for which each head spoke, so that a reader sees what it recognises.

Of some validation images those that the served model labels rightly; of these, for each head, the ones to whose label
it contributed most, above the mean of all labels, each of another label [our choice]. They are one picture, a row for
each head, whose tiles the manifest describes.

Shape suffixes: P images, R heads, K labels, Y X C rows, columns and channels of a picture, S samples of a head.
"""

from dataclasses import dataclass

import numpy as np
import torch
from headwise.v1 import bundle_pb2 as pb
from numpy.typing import NDArray
from PIL import Image

from headwise_exporter.data.base import Split
from headwise_exporter.data.thumbnails import encoded, kind_of, picture
from headwise_exporter.export.attribution import ExactSplit
from headwise_exporter.progress import Count, uncounted

CANDIDATES = 1000  # images
SAMPLES = 4  # of a head
TILE_PIXELS = 64  # a side, at most
BATCH = 32


@dataclass(frozen=True)
class Sample:
    """A head's image."""

    row: int  # of the head
    column: int
    image: int  # by its index
    label: int
    contribution: float  # above the mean of all labels


def candidates(images: int) -> NDArray[np.int64]:
    """Indices of the images that samples are chosen from, spread over all."""
    return np.linspace(0, images - 1, min(CANDIDATES, images)).round().astype(np.int64)


@torch.no_grad()
def contributions(
    split: ExactSplit, images_PYXC: NDArray[np.uint8], labels_P: NDArray[np.int64], on_images: Count = uncounted
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What each head adds to the own label of each image above the mean of all labels (P, R); who is right (P)."""
    own, right = [], []
    for indices in np.array_split(np.arange(len(images_PYXC)), -(-len(images_PYXC) // BATCH)):
        outputs = split(torch.from_numpy(images_PYXC[indices]))
        labels = torch.from_numpy(labels_P[indices])
        heads_PRK = outputs["heads"].double()
        chosen_PR1 = labels[:, None, None].expand(-1, heads_PRK.shape[1], 1)
        own.append((heads_PRK.gather(2, chosen_PR1).squeeze(2) - heads_PRK.mean(2)).numpy())
        right.append((outputs["logits"].argmax(1) == labels).numpy())
        on_images(len(indices))
    return np.concatenate(own), np.concatenate(right)


def choose(own_PR: NDArray[np.float64], right_P: NDArray[np.bool_], labels_P: NDArray[np.int64]) -> list[Sample]:
    """For each head the images with the largest contributions, each of another label; positive ones alone."""
    chosen = []
    for row, own_P in enumerate(own_PR.T):
        column, seen = 0, set[int]()
        for image in np.argsort(-own_P, kind="stable").tolist():
            label = int(labels_P[image])
            if column == SAMPLES or own_P[image] <= 0:
                break
            if right_P[image] and label not in seen:
                chosen.append(Sample(row, column, image, label, float(own_P[image])))
                seen.add(label)
                column += 1
    return chosen


def sheet(samples: list[Sample], rows: int, images_PYXC: NDArray[np.uint8]) -> Image.Image:
    """All samples as one picture; the images keep their proportions."""
    width, height = tile_size(images_PYXC)
    drawn = Image.new("L" if images_PYXC.shape[-1] == 1 else "RGB", (SAMPLES * width, rows * height))
    for sample in samples:
        tile = picture(images_PYXC[sample.image])
        tile.thumbnail((width, height))
        drawn.paste(tile, (sample.column * width, sample.row * height))
    return drawn


def tile_size(images_PYXC: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height of a tile: the images', reduced to `TILE_PIXELS` where they are larger."""
    tile = picture(images_PYXC[0])
    tile.thumbnail((TILE_PIXELS, TILE_PIXELS))
    return tile.size


def head_samples(
    split: ExactSplit, validation: Split, label_names: tuple[str, ...], on_images: Count = uncounted
) -> tuple[pb.HeadSamples, bytes] | None:
    """The samples of a model's heads, and the picture of them; None where no head has any.

    Args:
        split: of the served model.
        validation: the images that they are chosen from.
    """
    indices = candidates(len(validation.images_NYXC))
    images_PYXC, labels_P = validation.images_NYXC[indices], validation.labels_N[indices].astype(np.int64)
    own_PR, right_P = contributions(split, images_PYXC, labels_P, on_images)
    chosen = choose(own_PR, right_P, labels_P)
    if not chosen:
        return None
    width, height = tile_size(images_PYXC)
    kind = kind_of(width, height)
    described = pb.HeadSamples(
        path=f"head_samples.{kind}",
        tile_width=width,
        tile_height=height,
        columns=SAMPLES,
        images=len(indices),
        samples=[
            pb.HeadSample(
                row=sample.row,
                column=sample.column,
                label=label_names[sample.label],
                contribution=sample.contribution,
            )
            for sample in chosen
        ],
    )
    return described, encoded(sheet(chosen, own_PR.shape[1], images_PYXC), kind)
