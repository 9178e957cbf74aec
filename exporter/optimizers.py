"""Optimisers, learning-rate schedule and weight averaging, by the recipe's settings.

`adamw`: AdamW on everything. `muon`: Muon (orthogonalised momentum, `torch.optim.Muon`) on the matrices inside the
encoders, its steps scaled to AdamW's root mean square so that one learning rate serves both, and AdamW on the rest
(convolutions, positions, read-out, biases, norms).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from exporter.cct import CCT

OptimizerName = Literal["adamw", "muon"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)


def parameter_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels; none on biases and norms, as in the reference recipe."""
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizers(
    model: CCT, parameters: Sequence[nn.Parameter], name: OptimizerName, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers that step together.

    Raises:
        ValueError: the name is none of `OPTIMIZERS`.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"expected an optimiser of {', '.join(OPTIMIZERS)}, found {name!r}")
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    inside = {id(parameter) for parameter in model.classifier.blocks.parameters() if parameter.ndim == 2}
    matrices = [parameter for parameter in learnt if name == "muon" and id(parameter) in inside]
    rest = [parameter for parameter in learnt if name == "adamw" or id(parameter) not in inside]
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(
            torch.optim.Muon(matrices, learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    if rest:
        made.append(torch.optim.AdamW(parameter_groups(rest, weight_decay), learning_rate))
    return made


def learning_rate(epoch: float, *, epochs: int, warm_up_epochs: int, peak: float, final: float) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up to the peak, then half a cosine down to the final rate."""
    warm_up = min(warm_up_epochs, epochs)
    if epoch < warm_up:
        return peak * (epoch + 1e-2) / warm_up
    progress = (epoch - warm_up) / max(epochs - warm_up, 1e-9)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))


class AveragedWeights:
    """Exponential moving average of a model's weights (Polyak averaging).

    The decay starts low and grows to `decay`, so that the first, random weights are soon forgotten [our choice]:
    min(decay, (1 + n) / (10 + n)) at update n.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters: list[Tensor] = [parameter.detach() for parameter in parameters]
        self.averages = [parameter.clone() for parameter in self.parameters]
        self.decay, self.updates = decay, 0

    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their averages."""
        weights = [parameter.clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.averages)
        torch._foreach_copy_(self.averages, weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.updates = state["updates"]
        averages: list[Tensor] = state["averages"]
        for average, saved in zip(self.averages, averages, strict=True):
            average.copy_(saved)
