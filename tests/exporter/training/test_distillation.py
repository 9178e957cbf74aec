"""What is learnt from a teacher."""

from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.data.base import DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import LabelledImages, labelled_images
from headwise_exporter.model.cct import CCT
from headwise_exporter.training.distillation import DistillationSettings, loss_sum, teacher_of
from headwise_exporter.training.evaluation import predict
from headwise_exporter.training.loop import train
from headwise_exporter.training.settings import TrainingSettings
from hypothesis import given
from hypothesis import strategies as st

TRAINING = TrainingSettings(epochs=6, warm_up_epochs=1, batch_size=32, learning_rate=3e-3)
LABELS_ALONE = DistillationSettings(label_share=1.0)


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """160 training digits."""
    digits = support.few_images(load(DatasetSettings("digits")), 160)
    return labelled_images(digits.train, digits.mean, digits.std)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a student and of a teacher, and soft targets, for 5 images of 7 labels."""
    generator = torch.Generator().manual_seed(seed)
    student_BK, teacher_BK, targets_BK = (3 * torch.randn(5, 7, generator=generator).double() for _ in range(3))
    return student_BK, teacher_BK, targets_BK.softmax(1)


@given(st.integers(0, 10_000), st.floats(0.5, 20), st.floats(0, 1))
def test_loss_is_the_weighted_sum_of_both(seed: int, temperature: float, share: float) -> None:
    """T squared times the divergence at T, and the cross-entropy to the labels."""
    student_BK, teacher_BK, targets_BK = draw(seed)
    taught_BK, own_BK = ((logits / temperature).softmax(1) for logits in (teacher_BK, student_BK))
    divergence = (taught_BK * (taught_BK / own_BK).log()).sum()
    labels = -(targets_BK * student_BK.log_softmax(1)).sum()
    found = loss_sum(student_BK, targets_BK, teacher_BK, DistillationSettings(temperature, share))
    torch.testing.assert_close(found, (1 - share) * temperature**2 * divergence + share * labels)


@given(st.integers(0, 10_000), st.floats(0.5, 20))
def test_teacher_itself_has_nothing_to_learn(seed: int, temperature: float) -> None:
    """Loss and gradient are zero where student and teacher agree."""
    _, teacher_BK, targets_BK = draw(seed)
    student_BK = teacher_BK.clone().requires_grad_()
    loss = loss_sum(student_BK, targets_BK, teacher_BK, DistillationSettings(temperature))
    [gradient_BK] = torch.autograd.grad(loss, student_BK)
    assert abs(float(loss.detach())) < 1e-9
    assert float(gradient_BK.abs().max()) < 1e-9


def test_student_comes_to_agree_with_a_teacher_that_contradicts_the_labels(data: LabelledImages) -> None:
    """Whose labels are shifted by one: nothing but its logits can have taught that."""
    teacher, student = CCT(support.small_config()), CCT(support.small_config())
    shifted = replace(data, labels_N=(data.labels_N + 1) % 10)
    train(teacher, shifted, replace(TRAINING, epochs=20))
    taught_NK = predict(teacher, data)
    train(student, data, replace(TRAINING, epochs=20), teacher=teacher_of(teacher, DistillationSettings()))
    agree = (predict(student, data).argmax(1) == taught_NK.argmax(1)).float().mean()
    right = (predict(student, data).argmax(1) == data.labels_N).float().mean()
    assert agree > 0.5 > right


def test_teacher_is_as_it_was(data: LabelledImages) -> None:
    """Weights, layout and device."""
    teacher = support.random_model()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    train(
        support.random_model(), data, replace(TRAINING, epochs=1), teacher=teacher_of(teacher, DistillationSettings())
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in teacher.state_dict().values())


def test_labels_alone_need_no_teacher(data: LabelledImages) -> None:
    """And the weights are those of a training without one, bit for bit."""
    with_share, without = support.random_model(), support.random_model()
    teacher = teacher_of(support.random_model(), LABELS_ALONE)
    assert teacher is None
    train(with_share, data, replace(TRAINING, epochs=1), teacher=teacher)
    train(without, data, replace(TRAINING, epochs=1))
    assert all(torch.equal(a, b) for a, b in zip(with_share.parameters(), without.parameters(), strict=True))


@pytest.mark.parametrize(
    ("temperature", "share", "expected"), [(0.0, 0.0, "temperature above 0"), (1.0, 1.5, "label_share in 0 .. 1")]
)
def test_settings_that_mean_nothing_are_refused(temperature: float, share: float, expected: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=f"expected a {expected}"):
        DistillationSettings(temperature, share)
