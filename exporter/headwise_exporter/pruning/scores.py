"""Scores of nodes or connections, and products of several.

A product is named by its factors, as `wanda*overlap`. Each factor is divided by its mean, so that the scale of none
decides alone [our choice].
"""

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST_MEAN = 1e-300  # of a factor that is zero everywhere


def product(name: str, factor: Callable[[str], Tensor]) -> Tensor:
    """The factors of a score over their means, multiplied.

    Args:
        name: of the score, its factors between asterisks; a name without one is a product of one factor.
        factor: gives a factor by its name; all in one shape.
    """
    factors = [factor(part) for part in name.split("*")]
    return torch.stack([values / values.mean().clamp(min=SMALLEST_MEAN) for values in factors]).prod(0)
