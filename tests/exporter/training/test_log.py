"""The log of a training while it goes on."""

import json
from pathlib import Path

import pytest
from headwise_exporter.files import OutputError
from headwise_exporter.training.log import METRICS, TENSORBOARD, training_log
from headwise_exporter.training.loop import Epoch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EPOCHS = [Epoch(1, 2.0, 1e-3, 100.0), Epoch(2, 1.5, 2e-3, 110.0, 0.5), Epoch(3, 1.25, 1e-3, 120.0)]


def log_each(run: Path, first: int, last: int, epochs: list[Epoch] = EPOCHS) -> None:
    """Log a training from epoch `first` to epoch `last`."""
    with training_log(run) as log:
        for number in range(first, last + 1):
            log(epochs[:number])


def scalars(run: Path, tag: str) -> dict[int, float]:
    """What TensorBoard shows under a tag."""
    events = EventAccumulator(str(run / TENSORBOARD)).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_every_epoch_is_a_line_and_a_point(tmp_path: Path) -> None:
    """Only epochs that were evaluated have a validation accuracy."""
    log_each(tmp_path, 1, 3)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text("utf-8").splitlines()]
    assert [Epoch(**line) for line in lines] == EPOCHS
    assert scalars(tmp_path, "loss/train") == {1: 2.0, 2: 1.5, 3: 1.25}
    assert scalars(tmp_path, "accuracy/validation") == {2: 0.5}


def test_log_is_written_while_training_goes_on(tmp_path: Path) -> None:
    """After each epoch its line and its point are in the files."""
    with training_log(tmp_path) as log:
        for number in (1, 2):
            log(EPOCHS[:number])
            assert len((tmp_path / METRICS).read_text("utf-8").splitlines()) == number
            assert len(scalars(tmp_path, "loss/train")) == number


def test_resumed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Epochs that are trained again are logged once, with the later values."""
    log_each(tmp_path, 1, 3)
    again = [EPOCHS[0], Epoch(2, 1.75, 2e-3, 110.0, 0.25)]
    log_each(tmp_path, 2, 2, again)
    assert len((tmp_path / METRICS).read_text("utf-8").splitlines()) == 2
    assert scalars(tmp_path, "loss/train") == {1: 2.0, 2: 1.75}


def test_another_training_starts_a_new_log(tmp_path: Path) -> None:
    """No epoch of the earlier training is left."""
    log_each(tmp_path, 1, 3)
    log_each(tmp_path, 1, 1)
    assert scalars(tmp_path, "loss/train") == {1: 2.0}
    assert len((tmp_path / METRICS).read_text("utf-8").splitlines()) == 1


def test_training_without_an_epoch_leaves_nothing(tmp_path: Path) -> None:
    """There is no empty file."""
    with training_log(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_written_is_an_error_by_name(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / TENSORBOARD).write_text("in the way", "utf-8")
    with pytest.raises(OutputError, match="cannot write"), training_log(tmp_path) as log:
        log(EPOCHS[1:])
