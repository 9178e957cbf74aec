"""A model for some of its labels: the classifier head's rows of these, and on request a row that stands for all others.

What the model itself says among these labels is its logits of them. For `other` it is the logarithm of the sum of the
other labels' exponentials, so that softmax gives it the probability of any of them; less by a constant where images of
other labels are rarer than where the model was trained, as Bayes' rule has it [our choice]. The row of `other` begins
as that logit's least-squares fit on training images, from the pooled nodes that the head reads [our choice].

Shape suffixes as in `model.cct`; J labels chosen, and `other`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.anatomy import CLASSIFIER_HEAD
from headwise_exporter.model.cct import CCT

HEAD_WEIGHT, HEAD_BIAS = "classifier.fc.weight", "classifier.fc.bias"
FIT_IMAGES = 5000  # training images that the row of `other` is fitted on
ROUNDING = 1e-5  # of float32: the final norm fixes the nodes' sum, and what varies less than this is not fitted


class LabelReading(nn.Module):
    """What a model says of some of its labels."""

    def __init__(self, model: CCT, labels: Sequence[int], other_shift: float | None = None) -> None:
        """Args:
        labels: those chosen, by their numbers.
        other_shift: added to the logit of all others; None for no such logit.
        """
        super().__init__()
        self.model, self.labels, self.other_shift = model, list(labels), other_shift
        self.others = [label for label in range(model.config.labels) if label not in self.labels]

    def read(self, logits_BK: Tensor) -> Tensor:
        """Logits (B, J)."""
        chosen_BJ = logits_BK[:, self.labels]
        if self.other_shift is None:
            return chosen_BJ
        other_B1 = logits_BK[:, self.others].logsumexp(1, keepdim=True) + self.other_shift
        return torch.cat((chosen_BJ, other_B1), 1)

    def first_labels(self, logits_BK: Tensor) -> Tensor:
        """Number (B,) of the first label among the chosen ones; with `other`, among all, each other one being it."""
        if self.other_shift is None:
            return self.read(logits_BK).argmax(1)
        number_K = torch.full((logits_BK.shape[1],), len(self.labels), device=logits_BK.device)
        number_K[self.labels] = torch.arange(len(self.labels), device=logits_BK.device)
        return number_K[logits_BK.argmax(1)]

    def forward(self, images_BCYX: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, J) and the model's activations by name."""
        logits_BK, activations = self.model(images_BCYX)
        return self.read(logits_BK), activations


def other_shift(chosen_images: int, other_images: int, chosen_here: int, other_here: int) -> float:
    """What to add to the logit of all others, from counts of images where a model was trained and where it is used."""
    odds, odds_here = other_images / chosen_images, other_here / chosen_here
    return float(torch.tensor(odds_here / odds, dtype=torch.float64).log())


@torch.no_grad()
def _other_row(reading: LabelReading, data: LabelledImages) -> Tensor:
    """Weights and bias (D + 1) of the row of `other`, on the CPU."""
    nodes, fitted = [], []
    reading.eval()
    with data.visited_by(reading):
        for images_BCYX, _ in data.batches():
            logits_BJ, activations = reading(images_BCYX)
            nodes.append(activations[CLASSIFIER_HEAD].double().cpu())
            fitted.append(logits_BJ[:, -1:].double().cpu())
    nodes_ND = torch.cat(nodes)
    inputs_NE = torch.cat((nodes_ND, torch.ones(len(nodes_ND), 1, dtype=torch.float64)), 1)
    row_E1: Tensor = torch.linalg.lstsq(inputs_NE, torch.cat(fitted), rcond=ROUNDING).solution
    return row_E1[:, 0].float()


def specialised_head(reading: LabelReading, data: LabelledImages) -> CCT:
    """The model with the head's rows of the chosen labels, in evaluation mode; the reading's model is not changed.

    Args:
        data: training images of these labels and of others, on which the row of `other` is fitted.
    """
    state = {name: tensor.clone() for name, tensor in reading.model.state_dict().items()}
    weight_JD, bias_J = (state[name][reading.labels] for name in (HEAD_WEIGHT, HEAD_BIAS))
    if reading.other_shift is not None:
        row_E = _other_row(reading, data.sample(FIT_IMAGES))
        weight_JD, bias_J = torch.cat((weight_JD, row_E[None, :-1])), torch.cat((bias_J, row_E[-1:]))
    small = CCT(replace(reading.model.config, labels=len(bias_J)))
    small.load_state_dict(state | {HEAD_WEIGHT: weight_JD, HEAD_BIAS: bias_J})
    return small.eval()
