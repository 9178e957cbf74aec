"""Learn from what another model says of the same images, rather than from their labels alone: knowledge distillation.

    loss = share * cross-entropy to the labels + (1 - share) * T^2 * KL(teacher at T, student at T)

[Hinton et al., arXiv:1503.02531]; "at T" means softmax of the logits over the temperature T, and T^2 keeps the size of
the gradients. The teacher sees the very images that the student sees, after augmentation and mixing, in evaluation
mode; nothing of it learns. `Teacher` is a model that is asked in each step, as in fine-tuning after pruning;
`taught_views` has teachers of any kind, which are asked before the training.

Shape suffixes as in `model.cct`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class DistillationSettings:
    """What a model learns from.

    Raises:
        ValueError: a temperature that is not above 0, or a share outside 0 .. 1.
    """

    temperature: float = 4.0
    label_share: float = 0.0  # of the loss that comes from the labels; at 1 there is no teacher

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"expected a temperature above 0, found {self.temperature}")
        if not 0 <= self.label_share <= 1:
            raise ValueError(f"expected a label_share in 0 .. 1, found {self.label_share}")


@dataclass(frozen=True)
class TeachingSettings(DistillationSettings):
    """What a model learns from where its training is given a teacher, which is asked beforehand (`taught_views`).

    Raises:
        ValueError: as above, or fewer views than one.
    """

    views: int = 20  # augmented forms of each image

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views < 1:
            raise ValueError(f"expected views of 1 or more, found {self.views}")


@dataclass(frozen=True)
class Teacher:
    """Whom a model learns from, and how much."""

    model: nn.Module  # whose forward returns logits first
    settings: DistillationSettings

    @torch.no_grad()
    def logits(self, images_BCYX: Tensor) -> Tensor:
        """What the teacher says (B, K)."""
        logits_BK: Tensor = self.model.eval()(images_BCYX)[0]
        return logits_BK


def teacher_of(model: nn.Module, settings: DistillationSettings) -> Teacher | None:
    """The model as a teacher; None where labels are all that is learnt from."""
    return Teacher(model, settings) if settings.label_share < 1 else None


def loss_sum(
    logits_BK: Tensor, targets_BK: Tensor, teacher_logits_BK: Tensor, settings: DistillationSettings
) -> Tensor:
    """Loss summed over the images of a batch.

    Args:
        targets_BK: shares of the labels.
    """
    teacher_BK = functional.log_softmax(teacher_logits_BK / settings.temperature, dim=1)
    student_BK = functional.log_softmax(logits_BK / settings.temperature, dim=1)
    divergence = functional.kl_div(student_BK, teacher_BK, reduction="sum", log_target=True)
    from_teacher = settings.temperature**2 * divergence
    from_labels = functional.cross_entropy(logits_BK, targets_BK, reduction="sum")
    return torch.lerp(from_teacher, from_labels, settings.label_share)
