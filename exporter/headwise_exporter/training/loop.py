"""Train a CCT: warm-up, cosine decay, label smoothing, augmentation on the device, averaged weights.

The same loop makes the dense model, the fine-tuning under ANDC masks and the fine-tuning after removal; they
differ in their settings, in which parameters learn and in what is re-applied after each step.

Random numbers are drawn by epoch and step (`batches`). So a run that was interrupted anywhere and resumed from its last
checkpoint ends in the same weights as one that was not, on the same machine and number of threads. Under torchrun each
process takes its share of every batch (`distributed`); the loss is that of one process with the whole batch.

Shape suffixes as in `model.cct`.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from headwise_exporter import distributed
from headwise_exporter.data.augmentation import prepare
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.errors import ExporterError
from headwise_exporter.files import atomic_write
from headwise_exporter.model.cct import CCT
from headwise_exporter.training.batches import order, seed_step, steps_of_epoch
from headwise_exporter.training.distillation import Teacher, loss_sum
from headwise_exporter.training.early_stopping import BestWeights
from headwise_exporter.training.evaluation import evaluate
from headwise_exporter.training.models_at_work import models_at_work, others_frozen
from headwise_exporter.training.optimizers import AveragedWeights, make_optimizers
from headwise_exporter.training.settings import TrainingSettings, learning_rate_at
from headwise_exporter.training.taught_views import TaughtViews

CHECKPOINT_SECONDS = 20.0  # at most this much training is lost to an interrupt


class TrainingError(ExporterError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int  # from 1
    loss: float
    learning_rate: float  # at its last step
    images_per_second: float
    validation_accuracy: float | None = None  # where it was evaluated


@dataclass
class TrainingResult:
    """The record of a run."""

    epochs: list[Epoch] = field(default_factory=list)
    best: BestWeights | None = None  # with early stopping; the model has them

    def stopped_early(self, settings: TrainingSettings) -> bool:
        """Whether so many epochs brought no better validation accuracy; looked at after each evaluation."""
        if self.best is None or not self.epochs or self.epochs[-1].validation_accuracy is None:
            return False
        epochs = len(self.epochs)
        return epochs < settings.epochs and epochs - self.best.improved >= settings.patience_epochs


@dataclass(frozen=True)
class Step:
    """What is shown after a step."""

    step: int  # from 1, over the whole training
    epoch: int  # from 1
    images: int  # of the step, in all processes
    seconds: float  # it took
    loss: float
    images_per_second: float  # of the epoch so far


@dataclass
class _Run:
    """What a training consists of while it goes on: all that a checkpoint holds."""

    model: CCT
    optimizers: list[torch.optim.Optimizer]
    average: AveragedWeights | None
    settings: TrainingSettings
    result: TrainingResult
    identity: str  # a checkpoint of another one is not resumed
    teacher: Teacher | TaughtViews | None = None
    step: int = 0  # steps done, over the whole training
    loss_sum: float = 0.0  # over the images of the current epoch so far

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.state_dict() if self.average else None,
            "epochs": [asdict(epoch) for epoch in self.result.epochs],
            "best": self.result.best.state_dict() if self.result.best else None,
            "step": self.step,
            "loss_sum": self.loss_sum,
        }

    def save(self, path: Path) -> None:
        content = io.BytesIO()  # not written by torch: what it raises on a full disk is no OSError
        torch.save(self.state_dict(), content)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of this very training; from any other, start over, at step 0."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("identity") != self.identity:
            return
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average:
            self.average.load_state_dict(state["average"])
        self.result.epochs.extend(Epoch(**epoch) for epoch in state["epochs"])
        if self.result.best:
            self.result.best.load_state_dict(state["best"])
        self.step, self.loss_sum = state["step"], state["loss_sum"]


def _batches(run: _Run, images: int, epoch: int) -> tuple[Tensor, ...]:
    """Indices of the images of every batch of an epoch, from 0."""
    if isinstance(run.teacher, TaughtViews):
        return run.teacher.views.batches(run.teacher.views.view(epoch))
    return order(images, run.settings.batch_size, run.settings.seed, epoch)


def _taught_batch(run: _Run, taught: TaughtViews, data: LabelledImages, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, targets and the teacher's logits of a whole batch; then the random state is that of the step."""
    labels, smoothing = run.model.config.labels, run.settings.label_smoothing
    images_BCYX, targets_BK = taught.views.prepare(data, batch, run.step, labels, smoothing)
    seed_step(run.settings.seed, run.step)
    return images_BCYX, targets_BK, taught.logits(run.step, len(batch)).to(data.device)


def _loss_sum(run: _Run, forward: nn.Module, data: LabelledImages, batch: Tensor) -> Tensor:
    """Loss of this process's share of a batch, summed over its images."""
    idle = distributed.rank() >= len(batch)  # of the last batch, which may be small; the gradient is still shared
    share = slice(1) if idle else slice(distributed.rank(), None, distributed.world_size())
    autocast = torch.autocast(data.device.type, torch.bfloat16) if run.settings.bf16 else nullcontext()
    if isinstance(run.teacher, TaughtViews):
        images_BCYX, targets_BK, taught_BK = (values[share] for values in _taught_batch(run, run.teacher, data, batch))
    else:
        images_BCYX, targets_BK, taught_BK = *_prepared(run, data, batch[share]), None
    with autocast:
        logits_BK, _ = forward(images_BCYX)
        if isinstance(run.teacher, Teacher):
            taught_BK = run.teacher.logits(images_BCYX)
    if run.teacher is None or taught_BK is None:
        loss = functional.cross_entropy(logits_BK.float(), targets_BK, reduction="sum")
    else:
        loss = loss_sum(logits_BK.float(), targets_BK, taught_BK.float(), run.teacher.settings)
    return loss * (0.0 if idle else 1.0)


def _prepared(run: _Run, data: LabelledImages, own: Tensor) -> tuple[Tensor, Tensor]:
    """Images and targets of this process's share of a batch."""
    return prepare(
        data.pixels(own),
        data.labels_N[own.to(data.device)],
        run.settings.augmentation,
        mean=data.mean,
        std=data.std,
        labels=run.model.config.labels,
        smoothing=run.settings.label_smoothing,
    )


def _take_step(
    run: _Run, forward: nn.Module, data: LabelledImages, batch: Tensor, epoch: float, after_step: Callable[[], None]
) -> float:
    """One step of all optimisers; the mean loss over the batch.

    Raises:
        TrainingError: the loss is not finite.
    """
    settings = run.settings
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(epoch, settings)
    seed_step(settings.seed, run.step)
    loss = _loss_sum(run, forward, data, batch)
    value = float(distributed.total(loss.detach().clone())) / len(batch)
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} in epoch {int(epoch) + 1}, step {run.step + 1}. The last checkpoint is intact: "
            f"lower the learning rate (now {settings.learning_rate}) and resume."
        )
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    (loss * (distributed.world_size() / len(batch))).backward()  # processes' gradients are averaged, hence the factor
    nn.utils.clip_grad_norm_(run.model.parameters(), settings.gradient_clip)
    for optimizer in run.optimizers:
        optimizer.step()
    after_step()
    if run.average:
        run.average.update()
    run.step += 1
    return value


def _forward(model: CCT, settings: TrainingSettings) -> nn.Module:
    """The model as it is called in training: compiled and distributed where that is asked for."""
    module: nn.Module = model
    if settings.compile:
        module = torch.compile(model)  # type: ignore[assignment]  # torch says a callable; of a module it is a module
    return DistributedDataParallel(module) if distributed.world_size() > 1 else module


def train(
    model: CCT,
    data: LabelledImages,
    settings: TrainingSettings,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    teacher: Teacher | TaughtViews | None = None,
    after_step: Callable[[], None] = lambda: None,
    validation: LabelledImages | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
    on_start: Callable[[int], None] = lambda steps: None,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Sequence[Epoch]], None] = lambda epochs: None,
) -> TrainingResult:
    """Train `model` in place, on the device of the images; afterwards it is where it was.

    Args:
        parameters: those that learn; all by default.
        teacher: whose logits are learnt from, asked in every step or beforehand; labels alone by default.
        after_step: called after each optimiser step, to re-apply masks.
        validation: images whose accuracy is evaluated now and then, for the record and for early stopping.
        checkpoint: file to resume from, and to save to every `CHECKPOINT_SECONDS`. It is removed at the end.
        identity: of what is trained and on what, where that can change under a checkpoint; its settings are added.
        on_start: called before the first step with the steps that were done before a resume, else 0.
        on_step: called after each step; after a resume, from the next one on.
        on_epoch: called after each epoch with all epochs so far, those before a resume too.

    Raises:
        TrainingError: the loss is not finite.
        OutputError: the checkpoint cannot be written.
        ValueError: early stopping without validation images.
    """
    if settings.patience_epochs and validation is None:
        raise ValueError(f"expected validation images for a patience of {settings.patience_epochs} epochs, found none")
    learnt = list(model.parameters()) if parameters is None else list(parameters)
    working = [model, teacher.model] if isinstance(teacher, Teacher) else [model]
    # Before anything refers to the weights' storage.
    with models_at_work(data, working), others_frozen(model, learnt):
        optimizers = make_optimizers(model, learnt, settings.optimizer, settings.learning_rate, settings.weight_decay)
        average = AveragedWeights(learnt, settings.average_decay) if settings.average_decay else None
        best = BestWeights() if settings.patience_epochs else None
        run = _Run(model, optimizers, average, settings, TrainingResult(best=best), f"{settings!r} {identity}", teacher)
        if checkpoint and checkpoint.exists():
            run.resume(checkpoint)
        on_start(run.step)
        _train_epochs(run, data, after_step, validation, checkpoint, on_step, on_epoch)
        if best and best.weights:
            model.load_state_dict(best.weights)
        elif average:
            average.swap()
    model.eval()
    if checkpoint and distributed.is_main():
        checkpoint.unlink(missing_ok=True)
    return run.result


def _train_epochs(
    run: _Run,
    data: LabelledImages,
    after_step: Callable[[], None],
    validation: LabelledImages | None,
    checkpoint: Path | None,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Sequence[Epoch]], None],
) -> None:
    """All epochs from where the run stands."""
    settings, forward, saved_at = run.settings, _forward(run.model, run.settings), time.monotonic()
    steps = steps_of_epoch(len(data), settings.batch_size)
    for epoch in range(run.step // steps, settings.epochs):
        if run.result.stopped_early(settings):
            break
        run.model.train()
        batches = _batches(run, len(data), epoch)
        images, seconds = 0, 0.0
        for batch in batches[run.step - epoch * steps :]:
            started = time.monotonic()
            value = _take_step(run, forward, data, batch, run.step / steps, after_step)
            took = time.monotonic() - started
            run.loss_sum += value * len(batch)
            images, seconds = images + len(batch), seconds + took
            rate = images / seconds
            on_step(Step(run.step, epoch + 1, len(batch), took, value, rate))
            ends = run.step == (epoch + 1) * steps
            if checkpoint and not ends and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                _checkpoint(run, checkpoint)
                saved_at = time.monotonic()
        evaluated = (epoch + 1) % settings.evaluate_every() == 0 or epoch + 1 == settings.epochs
        _finish_epoch(run, epoch, len(data), rate, validation if evaluated else None)
        on_epoch(run.result.epochs)
        if checkpoint and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            _checkpoint(run, checkpoint)
            saved_at = time.monotonic()


def _checkpoint(run: _Run, path: Path) -> None:
    if distributed.is_main():
        run.save(path)


def _accuracy(run: _Run, data: LabelledImages, epoch: int) -> float:
    """Of the weights that would be the result if the training ended here; the best ones are kept where they matter."""
    if run.average:
        run.average.swap()
    evaluation = evaluate(run.model, data)
    figures = torch.tensor([evaluation.accuracy, evaluation.loss], dtype=torch.float64, device=data.device)
    accuracy, loss = distributed.of_main(figures).tolist()
    if run.result.best:
        run.result.best.take(epoch, accuracy, loss, run.model)
    if run.average:
        run.average.swap()
    return float(accuracy)


def _finish_epoch(run: _Run, epoch: int, images: int, rate: float, validation: LabelledImages | None) -> None:
    accuracy = _accuracy(run, validation, epoch + 1) if validation is not None else None
    rate_now = learning_rate_at(epoch + 1, run.settings)
    run.result.epochs.append(Epoch(epoch + 1, run.loss_sum / images, rate_now, rate, accuracy))
    run.loss_sum = 0.0
