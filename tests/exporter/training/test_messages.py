"""What is said of a training while it goes on."""

from dataclasses import replace

import pytest
import support
from headwise_exporter.training import messages
from headwise_exporter.training.early_stopping import BestWeights
from headwise_exporter.training.loop import Epoch, Step, TrainingResult
from headwise_exporter.training.messages import FirstSteps, TrainingMessages, end_line, training_seconds
from headwise_exporter.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=280, batch_size=128)
IMAGES = 1836  # in 15 batches


def step(number: int, seconds: float, images: int = 128) -> Step:
    """A step of some seconds."""
    return Step(number, 1, images, seconds, 2.0, images / seconds)


def of_training(
    settings: TrainingSettings = SETTINGS, **more: float
) -> tuple[TrainingMessages, support.Bar, list[str]]:
    """The messages of a training, its bar, and the lines that were said."""
    bar, lines = support.Bar("train", settings.epochs * IMAGES, "images"), list[str]()
    said = TrainingMessages(settings, IMAGES, 204, bar.advance, lines.append, **more)  # type: ignore[arg-type]  # mixed
    return said, bar, lines


def test_pace_is_that_of_the_steps_after_the_first() -> None:
    """A slow first step is left out; the pace is given once, as soon as enough seconds were timed."""
    first = FirstSteps()
    paces = [first.take(step(number, seconds)) for number, seconds in enumerate((9.0, 0.4, 0.4, 0.4, 0.4), 1)]
    assert paces == [None, None, None, pytest.approx(320.0), None]


def test_time_is_said_before_much_of_the_training_is_over() -> None:
    """Epochs, images, batch and minutes in one line, once, with the option that makes it shorter."""
    said, bar, lines = of_training()
    said.start(0)
    for number in range(1, 6):
        said.step(step(number, 0.75))
    assert lines == [
        "training: 280 epochs of 1,836 images in batches of 128, about 50 minutes on this machine "
        "(--epochs N for fewer)"
    ]
    assert (bar.done, bar.resumed) == (5 * 128, 0)
    assert bar.notes[-1] == "epoch 1 of 280, 171 images/s, loss 2.000"


def test_what_follows_the_training_is_said_with_it() -> None:
    """For a command that goes on, in images of the same pace."""
    said, _, lines = of_training(work_after=171 * 60 * 20.0)
    said.start(0)
    for number in range(1, 4):
        said.step(step(number, 0.75))
    assert lines[0].endswith("; measuring and pruning then take about 20 minutes more")


def test_training_that_may_stop_early_takes_at_most_so_long() -> None:
    """Unless its patience is as long as the training."""
    for patience, expected in ((70, True), (280, False), (0, False)):
        said, _, lines = of_training(replace(SETTINGS, patience_epochs=patience))
        for number in range(1, 4):
            said.step(step(number, 0.75))
        assert ("at most about" in lines[0]) == expected


def test_resume_says_where_and_how_long_the_rest_takes() -> None:
    """Half of the epochs take half of the time; the bar counts what was done before as such."""
    said, bar, lines = of_training()
    said.start(140 * 15 + 3)
    assert lines == ["resumed at epoch 141 of 280 (step 2,103 of 4,200)"]
    assert bar.done == bar.resumed == 140 * IMAGES + 3 * 128
    for number in range(2104, 2108):
        said.step(step(number, 0.75))
    assert "about 25 minutes left on this machine" in lines[1]


def test_starting_over_is_said() -> None:
    """A checkpoint that is not resumed is not passed over in silence."""
    said, _, lines = of_training(started_over=True)
    said.start(0)
    assert lines == ["starting over: the unfinished training in this folder had other settings or images"]


def test_evaluations_count_as_forward_passes() -> None:
    """Twenty evaluations of as many validation images as there are for training: a third of twenty epochs."""
    plain = training_seconds(SETTINGS, 1000, 0, 280, 100.0)
    assert training_seconds(SETTINGS, 1000, 1000, 280, 100.0) - plain == pytest.approx(20 * 10 * messages.EVALUATED)


@pytest.mark.parametrize(
    ("epochs", "best", "expected"),
    [
        (210, (154, 140), "stopped early after epoch 210 of 280: no better validation accuracy since epoch 140; the"),
        (280, (252, 252), "no better validation accuracy later: the model has the weights after epoch 252 (50.00 %"),
        (280, (280, 238), None),
    ],
)
def test_end_says_which_weights_the_model_has(epochs: int, best: tuple[int, int], expected: str | None) -> None:
    """Where they are not those of the last epoch that was planned."""
    record = [Epoch(epoch, 1.0, 1e-3, 100.0, 0.5 if epoch % 14 == 0 else None) for epoch in range(1, epochs + 1)]
    result = TrainingResult(record, BestWeights(best[0], 0.5, 1.0, best[1]))
    line = end_line(result, replace(SETTINGS, patience_epochs=70))
    assert line is None if expected is None else line is not None and line.startswith(expected)


def test_training_without_patience_ends_in_silence() -> None:
    """Its weights are the last."""
    assert end_line(TrainingResult([Epoch(1, 1.0, 1e-3, 100.0)]), SETTINGS) is None
