"""Early stopping: the best weights on the validation images, and whether training still finds better ones.

A training improves when its validation accuracy is higher than ever before. Among evaluations of the same accuracy the
weights of the lowest validation loss are kept, as pruning chooses its models. The result of a training with early
stopping is the best weights, whether it stopped early or not [the usual rule].

The learning rate falls to the planned end of the training, and much of the accuracy often comes with the last, small
steps. So a training that stops early ends at a higher rate than it was meant to; a short patience costs accuracy.

Limit: the validation accuracy of weights that were chosen by it is a little too high. The test images are not touched.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from headwise_exporter.model.cct import CCT


@dataclass
class BestWeights:
    """The best weights of a training so far."""

    epoch: int = 0  # after which they were evaluated, from 1; 0: none were
    accuracy: float = -1.0
    loss: float = float("inf")
    improved: int = 0  # first epoch of that accuracy
    weights: dict[str, Tensor] = field(default_factory=dict)

    def take(self, epoch: int, accuracy: float, loss: float, model: CCT) -> None:
        """Keep a copy of the model's weights if they are the best."""
        if (accuracy, -loss) <= (self.accuracy, -self.loss):
            return
        if accuracy > self.accuracy:
            self.improved = epoch
        self.epoch, self.accuracy, self.loss = epoch, accuracy, loss
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)
