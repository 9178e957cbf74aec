"""Training, interrupts and resuming."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from headwise_exporter.data.augmentation import AugmentationSettings
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import LabelledImages, labelled_images
from headwise_exporter.model.cct import CCT
from headwise_exporter.training import loop
from headwise_exporter.training.evaluation import evaluate, predict
from headwise_exporter.training.loop import Step, TrainingError, train
from headwise_exporter.training.optimizers import OPTIMIZERS, OptimizerName
from headwise_exporter.training.settings import TrainingSettings

MOVES = AugmentationSettings(rotation_degrees=10, scaling=0.1, shift=0.1, mixup=0.2)
SETTINGS = TrainingSettings(epochs=4, warm_up_epochs=1, batch_size=32, augmentation=MOVES)


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """160 training digits."""
    digits = support.few_images(load(DatasetSettings("digits")), 160)
    return labelled_images(digits.train, digits.mean, digits.std)


def new_model() -> CCT:
    """A model with dropout, so that its randomness is part of what must be resumed."""
    torch.manual_seed(1)
    return CCT(support.small_config(), attention_dropout=0.1, stochastic_depth=0.1)


def test_loss_falls(data: LabelledImages) -> None:
    """A few epochs on digits bring the loss down."""
    epochs = train(new_model(), data, TrainingSettings(epochs=8, warm_up_epochs=1, learning_rate=5e-3)).epochs
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < 0.9 * epochs[0].loss


def test_same_seed_gives_the_same_weights(data: LabelledImages) -> None:
    """Two runs of the same settings end in equal weights, bit for bit; another seed does not."""
    first, second, other = new_model(), new_model(), new_model()
    train(first, data, SETTINGS)
    train(second, data, SETTINGS)
    train(other, data, replace(SETTINGS, seed=5))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.classifier.fc.weight, other.classifier.fc.weight)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7, 19])
@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_interrupted_training_resumes_to_the_same_weights(
    data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, average_decay: float
) -> None:
    """Ctrl-C at any step, in an epoch or at its end, then the same call: equal weights and losses, bit for bit."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    settings = replace(SETTINGS, average_decay=average_decay)
    whole, interrupted, checkpoint = new_model(), new_model(), tmp_path / "resume.pt"
    expected = train(whole, data, settings)

    def interrupt(step: Step) -> None:
        if step.step == stop_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(interrupted, data, settings, checkpoint=checkpoint, on_step=interrupt)
    resumed, steps = new_model(), list[int]()
    result = train(resumed, data, settings, checkpoint=checkpoint, on_step=lambda step: steps.append(step.step))
    assert steps == list(range(stop_at + 1, 21))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [epoch.loss for epoch in result.epochs] == [epoch.loss for epoch in expected.epochs]
    assert not checkpoint.exists()


def test_averaged_weights_are_the_result_and_what_is_evaluated(data: LabelledImages) -> None:
    """The validation accuracy of the last epoch is that of the model that comes out."""
    model = new_model()
    result = train(model, data, replace(SETTINGS, average_decay=0.9), validation=data)
    accuracy = float((predict(model, data).argmax(1) == data.labels_N).double().mean())
    assert [epoch.validation_accuracy is not None for epoch in result.epochs] == [True] * 4
    assert result.epochs[-1].validation_accuracy == accuracy


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains(data: LabelledImages, optimizer: OptimizerName) -> None:
    """The loss falls."""
    epochs = train(new_model(), data, replace(SETTINGS, optimizer=optimizer)).epochs
    assert epochs[-1].loss < epochs[0].loss


def test_checkpoint_of_other_settings_is_not_resumed(
    data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed setting starts over instead of going on from something else."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    checkpoint = tmp_path / "resume.pt"

    def interrupt(step: Step) -> None:
        if step.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(new_model(), data, SETTINGS, checkpoint=checkpoint, on_step=interrupt)
    assert checkpoint.exists()
    shorter = replace(SETTINGS, epochs=1)
    assert len(train(new_model(), data, shorter, checkpoint=checkpoint).epochs) == 1


def test_checkpoint_of_another_model_or_data_is_not_resumed(
    data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings for something else start over, though a checkpoint lies there."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def interrupt(step: Step) -> None:
        if step.step == 12:
            raise KeyboardInterrupt

    first: dict[str, int] = {}
    for identity in ("same", "other"):
        checkpoint = tmp_path / f"{identity}.pt"
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), data, SETTINGS, checkpoint=checkpoint, identity="same", on_step=interrupt)
        steps: list[int] = []
        taken = steps.append
        train(
            new_model(),
            data,
            SETTINGS,
            checkpoint=checkpoint,
            identity=identity,
            on_step=lambda step, taken=taken: taken(step.step),
        )
        first[identity] = steps[0]
    assert first == {"same": 12, "other": 1}


def test_loss_that_is_not_finite_stops_with_epoch_and_step(data: LabelledImages) -> None:
    """The error of a diverged training names epoch and step, and what to change."""
    broken = replace(data, mean=(float("nan"),))
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 1, step \d.*lower the learning rate"):
        train(new_model(), broken, SETTINGS)


def test_only_the_given_parameters_learn(data: LabelledImages) -> None:
    """With `parameters`, all others stay as they are."""
    model = new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, data, replace(SETTINGS, epochs=1), parameters=list(model.classifier.fc.parameters()))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.fc.weight", "classifier.fc.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_prediction_does_not_depend_on_the_batch(data: LabelledImages) -> None:
    """Logits are the same in batches of 7 and of 160, and the model is left in evaluation mode."""
    model = new_model().train()
    torch.testing.assert_close(predict(model, data, 7), predict(model, data, 160))
    assert not model.training


def test_early_stopping_gives_the_best_weights(data: LabelledImages) -> None:
    """Where nothing improves the training stops after its patience, and the model has the best evaluated weights."""
    settings = replace(SETTINGS, epochs=40, learning_rate=1e-9, final_learning_rate=0.0, patience_epochs=3)
    model = new_model()
    result = train(model, data, settings, validation=data)
    assert result.best is not None
    assert result.stopped_early(settings)
    without_improvement = len(result.epochs) - result.best.improved
    assert 3 <= without_improvement < 3 + settings.evaluate_every()
    assert evaluate(model, data).accuracy == result.best.accuracy
    assert result.best.accuracy == max(epoch.validation_accuracy or 0.0 for epoch in result.epochs)


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_training_with_patience_that_goes_on_to_its_end_gives_the_best_weights(
    data: LabelledImages, average_decay: float
) -> None:
    """Patience changes no step: the epochs are those without it, and the result is the best of them."""
    settings = replace(SETTINGS, average_decay=average_decay)
    model = new_model()
    without = train(new_model(), data, settings, validation=data)
    result = train(model, data, replace(settings, patience_epochs=4), validation=data)
    assert [(e.loss, e.validation_accuracy) for e in result.epochs] == [
        (e.loss, e.validation_accuracy) for e in without.epochs
    ]
    assert result.best is not None
    assert evaluate(model, data).accuracy == result.best.accuracy


@pytest.mark.parametrize("stop_at", [4, 7, 10, 14])
@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_early_stopping_is_resumed_bit_for_bit(
    data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, average_decay: float
) -> None:
    """Interrupted before, at and after the best epoch: the same epochs, and the same best weights."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    settings = replace(SETTINGS, epochs=40, learning_rate=1e-9, patience_epochs=2, average_decay=average_decay)
    whole, resumed, checkpoint = new_model(), new_model(), tmp_path / "resume.pt"
    expected = train(whole, data, settings, validation=data)

    def interrupt(step: Step) -> None:
        if step.step == stop_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(new_model(), data, settings, validation=data, checkpoint=checkpoint, on_step=interrupt)
    starts: list[int] = []
    result = train(resumed, data, settings, validation=data, checkpoint=checkpoint, on_start=starts.append)
    assert starts == [stop_at]
    assert expected.best is not None
    assert result.best is not None
    assert (result.best.epoch, result.best.improved) == (expected.best.epoch, expected.best.improved)
    assert [epoch.loss for epoch in result.epochs] == [epoch.loss for epoch in expected.epochs]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_interrupt_after_the_last_epoch_of_a_stopped_training_adds_none(
    data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of a training that has stopped early is resumed to its end, not to further steps."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    settings = replace(SETTINGS, epochs=40, learning_rate=1e-9, patience_epochs=2)
    checkpoint, kept = tmp_path / "resume.pt", tmp_path / "kept.pt"
    save = loop._checkpoint

    def save_and_keep(*arguments: Any) -> None:
        save(*arguments)
        shutil.copy(checkpoint, kept)

    monkeypatch.setattr(loop, "_checkpoint", save_and_keep)
    epochs = len(train(new_model(), data, settings, validation=data, checkpoint=checkpoint).epochs)
    kept.rename(checkpoint)
    steps: list[Step] = []
    again = train(new_model(), data, settings, validation=data, checkpoint=checkpoint, on_step=steps.append)
    assert (len(again.epochs), steps) == (epochs, [])


def test_last_epoch_is_always_evaluated(data: LabelledImages) -> None:
    """Also where the evaluations before it do not divide the epochs."""
    epochs = train(new_model(), data, replace(SETTINGS, epochs=41), validation=data).epochs
    assert [e.epoch for e in epochs if e.validation_accuracy is not None] == [*range(2, 41, 2), 41]


def test_patience_without_validation_images_is_refused(data: LabelledImages) -> None:
    """There would be nothing to stop by."""
    with pytest.raises(ValueError, match="expected validation images for a patience of 2 epochs, found none"):
        train(new_model(), data, replace(SETTINGS, patience_epochs=2))


def test_steps_count_their_images(data: LabelledImages) -> None:
    """The last batch of an epoch is as small as it is, and so is the pace that follows from it."""
    steps: list[Step] = []
    train(new_model(), data, replace(SETTINGS, epochs=2, batch_size=64), on_step=steps.append)
    assert [(step.epoch, step.images) for step in steps] == [(epoch, n) for epoch in (1, 2) for n in (64, 64, 32)]
    assert steps[2].images_per_second == pytest.approx(160 / sum(step.seconds for step in steps[:3]))


def test_bf16_trains(data: LabelledImages) -> None:
    """Autocast to bf16 gives a finite loss close to that of float32."""
    in_bf16 = train(new_model(), data, replace(SETTINGS, epochs=1, bf16=True)).epochs[0].loss
    in_f32 = train(new_model(), data, replace(SETTINGS, epochs=1)).epochs[0].loss
    assert in_bf16 == pytest.approx(in_f32, rel=0.02)
