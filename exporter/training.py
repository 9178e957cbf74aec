"""Train a CCT: AdamW, linear warm-up, cosine decay, label smoothing, random affine augmentation.

The same loop makes the dense model, the short training under ANDC masks and the short training after removal; they
differ in their settings, in which parameters learn and in what is re-applied after each step.

Every epoch draws its randomness (order, augmentation, dropout) from `(seed, epoch)` alone. So a run that was
interrupted and resumed from the checkpoint of its last whole epoch ends in the same weights as one that was not, on
the same machine and number of threads.

Shape suffixes as in `exporter.cct`.
"""

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.cct import CCT
from exporter.files import whole_file
from exporter.images import LabelledImages

CHECKPOINT_SECONDS = 5.0  # at most this much training is lost to an interrupt, besides the current epoch


class TrainingError(Exception):
    """Training cannot go on."""


@dataclass(frozen=True)
class TrainingSettings:
    """All that a training run depends on besides the model, the images and the machine."""

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    weight_decay: float = 0.06
    warm_up_epochs: int = 5
    label_smoothing: float = 0.1
    rotation_degrees: float = 0.0  # uniform in +- this
    scaling: float = 0.0  # uniform in 1 +- this
    shift: float = 0.0  # uniform in +- this share of the side, both axes
    gradient_clip: float = 1.0  # norm
    bf16: bool = False  # autocast
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int  # from 1
    loss: float
    images_per_second: float


@dataclass
class TrainingResult:
    """The record of a run."""

    epochs: list[Epoch] = field(default_factory=list)


def augment(images_BCYX: Tensor, settings: TrainingSettings) -> Tensor:
    """Rotate, scale and shift each image at random, before normalisation; what comes in from outside is black.

    Source: our choice; a digit turned or shifted a little is the same digit, mirrored it is not.
    """
    if not (settings.rotation_degrees or settings.scaling or settings.shift):
        return images_BCYX
    batch = images_BCYX.shape[0]
    angle, scale, shift_x, shift_y = torch.rand(4, batch) * 2 - 1
    angle = angle * math.radians(settings.rotation_degrees)
    scale = 1 + scale * settings.scaling
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = 2 * settings.shift  # affine_grid's side is 2
    theta_B23 = torch.stack((cos, -sin, shift_x * shift, sin, cos, shift_y * shift), 1).view(batch, 2, 3)
    grid = functional.affine_grid(theta_B23, list(images_BCYX.shape), align_corners=False)
    return functional.grid_sample(images_BCYX, grid, align_corners=False)


def learning_rate_factor(epoch: float, settings: TrainingSettings) -> float:
    """Learning rate at a (fractional) epoch over the peak: linear warm-up, then half a cosine."""
    warm_up = min(settings.warm_up_epochs, settings.epochs)
    if epoch < warm_up:
        return (epoch + 1e-2) / warm_up
    floor = settings.final_learning_rate / settings.learning_rate
    progress = (epoch - warm_up) / max(settings.epochs - warm_up, 1e-9)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels; none on biases and norms, as in the reference recipe."""
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in learnt if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learnt if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _batches(images: int, settings: TrainingSettings) -> Iterator[Tensor]:
    yield from torch.split(torch.randperm(images), settings.batch_size)


def _train_epoch(
    model: CCT,
    optimizer: torch.optim.Optimizer,
    data: LabelledImages,
    settings: TrainingSettings,
    epoch: int,
    after_step: Callable[[], None],
) -> float:
    steps = math.ceil(len(data) / settings.batch_size)
    total = 0.0
    for step, batch in enumerate(_batches(len(data), settings)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(epoch + step / steps, settings)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            logits_BK, _ = model(data.normalise(augment(data.scaled(batch), settings)))
        labels_B = data.labels_N[batch]
        loss = functional.cross_entropy(logits_BK.float(), labels_B, label_smoothing=settings.label_smoothing)
        if not math.isfinite(value := float(loss.detach())):
            raise TrainingError(
                f"the loss became {value} in epoch {epoch + 1}, step {step + 1}. The last checkpoint is intact: lower "
                f"the learning rate (now {settings.learning_rate}) and resume."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        after_step()
        total += value * len(batch)
    return total / len(data)


def train(
    model: CCT,
    data: LabelledImages,
    settings: TrainingSettings,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    after_step: Callable[[], None] = lambda: None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainingResult:
    """Train `model` in place.

    Args:
        parameters: those that learn; all by default.
        after_step: called after each optimiser step, to re-apply masks.
        checkpoint: file to resume from, and to save to at the end of an epoch, every `CHECKPOINT_SECONDS` at most. It
            is removed at the end.

    Raises:
        TrainingError: the loss is not finite.
        OutputError: the checkpoint cannot be written.
    """
    learnt = list(model.parameters()) if parameters is None else list(parameters)
    optimizer = torch.optim.AdamW(parameter_groups(learnt, settings.weight_decay), lr=settings.learning_rate)
    result = TrainingResult()
    first = _resume(model, optimizer, settings, result, checkpoint)
    saved_at = time.monotonic()
    model.train()
    for epoch in range(first, settings.epochs):
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        started = time.monotonic()
        loss = _train_epoch(model, optimizer, data, settings, epoch, after_step)
        result.epochs.append(Epoch(epoch + 1, loss, len(data) / (time.monotonic() - started)))
        on_epoch(result.epochs[-1])
        if checkpoint and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            _save(model, optimizer, settings, result, checkpoint)
            saved_at = time.monotonic()
    model.eval()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return result


def _identity(settings: TrainingSettings) -> str:
    return repr(settings)


def _save(
    model: CCT, optimizer: torch.optim.Optimizer, settings: TrainingSettings, result: TrainingResult, path: Path
) -> None:
    epochs = [(epoch.epoch, epoch.loss, epoch.images_per_second) for epoch in result.epochs]
    state = {
        "settings": _identity(settings),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": epochs,
    }
    content = io.BytesIO()  # not written by torch: what it raises on a full disk is no OSError
    torch.save(state, content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _resume(
    model: CCT, optimizer: torch.optim.Optimizer, settings: TrainingSettings, result: TrainingResult, path: Path | None
) -> int:
    """First epoch still to run, after loading the checkpoint if there is one of these very settings."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != _identity(settings):
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    result.epochs.extend(Epoch(*epoch) for epoch in state["epochs"])
    return len(result.epochs)


@torch.no_grad()
def predict(model: CCT, data: LabelledImages, batch_size: int = 256) -> Tensor:
    """Logits (N, K) in evaluation mode."""
    model.eval()
    return torch.cat([model(images_BCYX)[0] for images_BCYX, _ in data.batches(batch_size)])


def shortened(settings: TrainingSettings, epochs: int, learning_rate: float) -> TrainingSettings:
    """The same settings for a short training: fewer epochs, lower peak, one warm-up epoch."""
    return replace(settings, epochs=epochs, learning_rate=learning_rate, warm_up_epochs=1)
