"""The best weights of a training."""

import pytest
import support
import torch
from headwise_exporter.training.early_stopping import BestWeights


def taken(figures: list[tuple[float, float]]) -> tuple[BestWeights, list[float]]:
    """The best of a model that was evaluated once an epoch, and the mark of each epoch in its weights."""
    model, best, marks = support.random_model(), BestWeights(), []
    for epoch, (accuracy, loss) in enumerate(figures, 1):
        with torch.no_grad():
            model.classifier.fc.bias.fill_(epoch)
        best.take(epoch, accuracy, loss, model)
        marks.append(float(best.weights["classifier.fc.bias"][0]))
    return best, marks


def test_higher_accuracy_is_better_whatever_the_loss() -> None:
    """The weights of the highest accuracy stay."""
    best, marks = taken([(0.5, 1.0), (0.7, 3.0), (0.6, 0.1)])
    assert (best.epoch, best.improved, best.accuracy) == (2, 2, 0.7)
    assert marks == [1, 2, 2]


def test_lower_loss_decides_between_equals_and_is_no_improvement() -> None:
    """The weights are the later ones; patience counts from the first epoch of that accuracy."""
    best, marks = taken([(0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.5, 0.9)])
    assert (best.epoch, best.improved) == (2, 1)
    assert marks == [1, 2, 2, 2]


def test_first_evaluation_is_always_taken() -> None:
    """Also where no image is right."""
    assert taken([(0.0, 9.0)])[0].epoch == 1


@pytest.mark.parametrize("epochs", [0, 2])
def test_state_is_restored(epochs: int) -> None:
    """As a checkpoint keeps it, before the first evaluation too."""
    best, restored = taken([(0.5, 1.0), (0.7, 3.0)][:epochs])[0], BestWeights()
    restored.load_state_dict(best.state_dict())
    assert (restored.epoch, restored.improved, restored.accuracy) == (best.epoch, best.improved, best.accuracy)
    assert restored.weights.keys() == best.weights.keys()
