"""Optimisers, learning-rate schedule and weight averaging, by the recipe's settings.

`adamw`: AdamW on everything. `muon`: Muon (orthogonalised momentum) on the matrices inside the encoders and the kernels
of the tokenizer, its steps scaled to AdamW's root mean square so that one learning rate serves both, and AdamW on the
rest (positions, classifier head, biases, norms).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from headwise_exporter.model.cct import CCT

OptimizerName = Literal["adamw", "muon"]
# K. Jordan's, as torch has them.
MOMENTUM, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = 0.95, (3.4445, -4.7750, 2.0315), 5
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)


def orthogonalised(matrices_GXY: Tensor) -> Tensor:
    """Each of G matrices U S V' brought near to U V', by Newton-Schulz iterations on all of them at once.

    The singular values of the result lie in about 0.7 .. 1.2. Computed in bf16 where the device has it, in float32
    elsewhere, where bf16 would be emulated. Source: K. Jordan, "Muon", kellerjordan.github.io/posts/muon.
    """
    a, b, c = NEWTON_SCHULZ
    x_GXY = matrices_GXY.to(torch.bfloat16 if matrices_GXY.device.type == "cuda" else torch.float32)
    x_GXY = x_GXY / x_GXY.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    wide = x_GXY.shape[1] <= x_GXY.shape[2]
    x_GXY = x_GXY if wide else x_GXY.mT  # the product of a matrix with itself is then the smaller one
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram_GXX = x_GXY @ x_GXY.mT
        polynomial_GXX = torch.baddbmm(gram_GXX, gram_GXX, gram_GXX, beta=b, alpha=c)
        x_GXY = torch.baddbmm(x_GXY, polynomial_GXX, x_GXY, beta=a)
    return (x_GXY if wide else x_GXY.mT).to(matrices_GXY.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with its steps scaled to AdamW's root mean square, all matrices of a shape at once; kernels are matrices
    with a row for each of their outputs.

    On matrices it is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, a test says so. Why not that one: it
    refuses kernels, and computes in bf16 on every device and one matrix after another. Where a CPU only emulates bf16
    that took 0.51 s a step for a CCT of 4 encoders 128 wide, more than forward and backward together (0.47 s); this,
    kernels included, takes 0.02 s (2 cores of an AMD EPYC without bf16, torch 2.13, medians of 11 steps).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient; the closure's loss, where there is a closure."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for same in _by_shape([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._step(same, [parameter.grad for parameter in same if parameter.grad is not None], group)
        return loss

    def _step(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters of one shape."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        update_GXY = orthogonalised(torch.stack([matrix.flatten(1) for matrix in ahead]))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = 0.2 * math.sqrt(max(update_GXY.shape[1:]))  # arXiv:2502.16982, section 2.2
        for parameter, update_XY in zip(parameters, update_GXY, strict=True):
            parameter.add_(update_XY.view(parameter.shape), alpha=-group["lr"] * scale)


def _by_shape(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    ordered = sorted(parameters, key=lambda parameter: tuple(parameter.shape))
    for _, same in groupby(ordered, key=lambda parameter: tuple(parameter.shape)):
        yield list(same)


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
    weights = (*model.classifier.blocks.parameters(), *model.tokenizer.parameters())
    inside = {id(parameter) for parameter in weights if parameter.ndim > 1}
    matrices = [parameter for parameter in learnt if name == "muon" and id(parameter) in inside]
    rest = [parameter for parameter in learnt if name == "adamw" or id(parameter) not in inside]
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(matrices, learning_rate, weight_decay))
    if rest:
        made.append(torch.optim.AdamW(parameter_groups(rest, weight_decay), learning_rate))
    return made


def learning_rate(epoch: float, *, epochs: int, warm_up_epochs: float, peak: float, final: float) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up to the peak, then half a cosine down to the final rate."""
    warm_up = min(warm_up_epochs, epochs)
    if epoch < warm_up:
        return peak * min(1.0, (epoch + 1e-2) / warm_up)
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
