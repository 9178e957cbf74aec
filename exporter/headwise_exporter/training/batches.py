"""Which images a step trains on, and the random numbers of the step.

The order of the images is drawn from `(seed, epoch)`, every other random number of a step (augmentation, dropout) from
`(seed, step)`: so a training that was interrupted and resumed is one that was not. A teacher that is asked beforehand
(`taught_views`) is asked about these very batches.
"""

import math

import torch
from torch import Tensor

from headwise_exporter import distributed

STRIDE = 1_000_003  # between the random states of two seeds


def order(images: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Indices of the images of every batch of an epoch."""
    generator = torch.Generator().manual_seed(seed * STRIDE + epoch)
    return torch.split(torch.randperm(images, generator=generator), batch_size)


def steps_of_epoch(images: int, batch_size: int) -> int:
    """Batches of an epoch; the last may be smaller."""
    return math.ceil(images / batch_size)


def seed_step(seed: int, step: int) -> None:
    """Set the random state of this process for a step."""
    torch.manual_seed((seed * STRIDE + step) * distributed.world_size() + distributed.rank())


def seed_batch(seed: int, step: int) -> None:
    """Set the random state for a batch that is the same in all processes."""
    torch.manual_seed(seed * STRIDE + step)
