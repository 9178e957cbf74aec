"""Labelled images as a model takes them: uint8 in memory, normalised float by the batch.

A whole data set in float32 would be four times its size, 3.7 GB for the test split of Flowers-102; so nothing but a
batch is ever converted. The pixels may be memory-mapped, or moved to the training device once with `to`.

Shape suffixes: N images, B batch, Y rows, X columns, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from headwise_exporter import distributed
from headwise_exporter.data.augmentation import normalise, to_unit
from headwise_exporter.data.base import Dataset, Split, SplitName

# Images at once where nothing is learnt. On a CPU so few that a layer's activations stay in its caches: with 64 pooling
# all nodes of CCT-7 takes nearly twice as long. On a GPU, where it was never timed, so many that it should be busy.
EVALUATION_BATCH = {"cpu": 16, "cuda": 256}


def occurrence(labels_N: Tensor) -> Tensor:
    """How many images of the same label stand before each image."""
    order_N = labels_N.argsort(stable=True)
    counts_K = torch.bincount(labels_N)
    starts_N = (counts_K.cumsum(0) - counts_K)[labels_N[order_N]]
    before_N = torch.empty_like(labels_N)
    before_N[order_N] = torch.arange(len(labels_N)) - starts_N
    return before_N


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set; batches and labels are on the device that it was made for."""

    images_NYXC: Tensor  # uint8, on that device or, where they do not fit, on the CPU
    labels_N: Tensor
    mean: tuple[float, ...]  # of the training pixels, in units of 0..1, one for each channel
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def device(self) -> torch.device:
        """Where batches and labels are."""
        return self.labels_N.device

    @contextmanager
    def visited_by(self, module: nn.Module) -> Iterator[None]:
        """The module is on the device of the images while the context is open, and then where it was."""
        home = next(module.parameters()).device
        module.to(self.device)
        try:
            yield
        finally:
            module.to(home)

    def to(self, device: torch.device) -> "LabelledImages":
        """The same for another device: pixels that fit in half of its free memory move now, others by the batch."""
        moved = replace(self, labels_N=self.labels_N.to(device))
        if device.type == "cuda" and 2 * self.images_NYXC.nbytes > torch.cuda.mem_get_info(device)[0]:
            return moved
        return replace(moved, images_NYXC=self.images_NYXC.to(device))

    def sample(self, images: int | None, seed: int = 0) -> "LabelledImages":
        """At most so many images, drawn at random without replacement; all of them by default."""
        if images is None or images >= len(self):
            return self
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:images].sort().values
        return self.chosen(drawn)

    def chosen(self, indices: Tensor) -> "LabelledImages":
        """The images at these indices."""
        return replace(
            self,
            images_NYXC=self.images_NYXC[indices.to(self.images_NYXC.device)],
            labels_N=self.labels_N[indices.to(self.device)],
        )

    def sample_of_each_label(self, images: int, seed: int = 0) -> "LabelledImages":
        """At most so many images of each label, drawn at random without replacement."""
        order_N = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        drawn = order_N[occurrence(self.labels_N.cpu()[order_N]) < images]
        return self.chosen(drawn.sort().values)

    def pixels(self, chosen: Tensor | slice) -> Tensor:
        """uint8 images (B, Y, X, C), on the device."""
        if isinstance(chosen, Tensor):
            chosen = chosen.to(self.images_NYXC.device)
        return self.images_NYXC[chosen].to(self.device)

    def normalised(self, chosen: Tensor | slice) -> Tensor:
        """Float images (B, C, Y, X), (x / 255 - mean) / std; channels innermost, as convolutions are fastest."""
        unit_BCYX = to_unit(self.pixels(chosen))
        images_BCYX = normalise(unit_BCYX, unit_BCYX.new_tensor(self.mean), unit_BCYX.new_tensor(self.std))
        return images_BCYX.contiguous(memory_format=torch.channels_last)

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels of all images, in order; as many at once as the device likes by default."""
        batch_size = batch_size or EVALUATION_BATCH[self.device.type]
        for first in range(0, len(self), batch_size):
            chosen = slice(first, first + batch_size)
            yield self.normalised(chosen), self.labels_N[chosen]


def labelled_images(split: Split, mean: tuple[float, ...], std: tuple[float, ...]) -> LabelledImages:
    """A split of a data set on the CPU, its pixels shared with it."""
    return LabelledImages(torch.from_numpy(split.images_NYXC), torch.from_numpy(split.labels_N), mean, std)


def split_images(dataset: Dataset, name: SplitName) -> LabelledImages:
    """One split, with the data set's own normalisation, for the device that there is."""
    return labelled_images(dataset.split(name), dataset.mean, dataset.std).to(distributed.training_device())
