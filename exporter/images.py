"""Labelled images as a model takes them: uint8 in memory, normalised float by the batch.

A whole data set in float32 would be four times its size, 3.7 GB for the test part of Flowers-102; so nothing but a
batch is ever converted. The pixels may be memory-mapped, or moved to the training device once with `to`.

Shape suffixes: N images, B batch, Y rows, X columns, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporter.datasets import Part


@dataclass(frozen=True)
class LabelledImages:
    """One part of a data set, on one device."""

    images_NYXC: Tensor  # uint8
    labels_N: Tensor
    mean_C: Tensor  # of the training pixels, in units of 0..1
    std_C: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device) -> "LabelledImages":
        """The same for another device: the pixels are moved there at once where they fit in half of its free memory,
        else by the batch.
        """
        moved = replace(
            self, labels_N=self.labels_N.to(device), mean_C=self.mean_C.to(device), std_C=self.std_C.to(device)
        )
        if device.type == "cuda" and 2 * self.images_NYXC.nbytes > torch.cuda.mem_get_info(device)[0]:
            return moved
        return replace(moved, images_NYXC=self.images_NYXC.to(device))

    def scaled(self, chosen: Tensor | slice) -> Tensor:
        """Float images (B, C, Y, X) in 0..1, before normalisation, on the device of `mean_C`."""
        if isinstance(chosen, Tensor):
            chosen = chosen.to(self.images_NYXC.device)
        return self.images_NYXC[chosen].to(self.mean_C.device).permute(0, 3, 1, 2).float() / 255

    def normalise(self, scaled_BCYX: Tensor) -> Tensor:
        """(x - mean) / std."""
        return (scaled_BCYX - self.mean_C.view(-1, 1, 1)) / self.std_C.view(-1, 1, 1)

    def normalised(self, chosen: Tensor | slice) -> Tensor:
        """Normalised float images (B, C, Y, X)."""
        return self.normalise(self.scaled(chosen)).contiguous()

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels of all images, in order."""
        for first in range(0, len(self), batch_size):
            chosen = slice(first, first + batch_size)
            yield self.normalised(chosen), self.labels_N[chosen]


def labelled_images(part: Part, mean: Sequence[float], std: Sequence[float]) -> LabelledImages:
    """A part of a data set on the CPU, its pixels shared with it."""
    return LabelledImages(
        torch.from_numpy(part.images_NYXC), torch.from_numpy(part.labels_N), torch.tensor(mean), torch.tensor(std)
    )
