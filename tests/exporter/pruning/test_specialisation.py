"""A model for some of its labels."""

import pytest
import torch
from headwise_exporter.data.images import LabelledImages
from headwise_exporter.model.cct import CCT
from headwise_exporter.pruning.specialisation import HEAD_WEIGHT, LabelReading, other_shift, specialised_head
from headwise_exporter.training.evaluation import predict

CHOSEN = [7, 2, 5]


def test_reading_without_other_is_the_logits_of_the_labels(dense: CCT, data: LabelledImages) -> None:
    """And so is what the specialised head gives, to the bit."""
    reading, logits_NK = LabelReading(dense, CHOSEN), predict(dense, data)
    assert torch.equal(predict(reading, data), logits_NK[:, CHOSEN])
    small = specialised_head(reading, data)
    assert torch.allclose(predict(small, data), logits_NK[:, CHOSEN], atol=1e-6)
    assert torch.equal(reading.first_labels(logits_NK), logits_NK[:, CHOSEN].argmax(1))


def test_other_has_the_probability_of_all_other_labels(dense: CCT, data: LabelledImages) -> None:
    """And as first label the images whose first label is none of the chosen."""
    reading, logits_NK = LabelReading(dense, CHOSEN, 0.0), predict(dense, data)
    probability_NK = logits_NK.softmax(1)
    others = [label for label in range(10) if label not in CHOSEN]
    assert torch.allclose(predict(reading, data).softmax(1)[:, 3], probability_NK[:, others].sum(1), atol=1e-6)
    first = [CHOSEN.index(label) if label in CHOSEN else 3 for label in logits_NK.argmax(1).tolist()]
    assert reading.first_labels(logits_NK).tolist() == first


def test_rarer_others_have_a_smaller_logit() -> None:
    """Ninety images of others for ten of the labels, and then as many as of these: Bayes' rule takes off log 9."""
    assert other_shift(10, 90, 50, 50) == pytest.approx(-torch.tensor(9.0).log().item())
    assert other_shift(10, 90, 5, 45) == 0.0


def test_row_of_other_begins_as_a_least_squares_fit(dense: CCT, data: LabelledImages) -> None:
    """No other weights come closer to its logit on the images; the other rows are the model's."""
    reading = LabelReading(dense, CHOSEN, -0.5)
    small = specialised_head(reading, data)
    assert small.config.labels == 4
    assert torch.equal(small.state_dict()[HEAD_WEIGHT][:3], dense.state_dict()[HEAD_WEIGHT][CHOSEN])
    assert small.classifier.fc.weight[3].abs().max() < 10 * dense.classifier.fc.weight.abs().max()  # not of rounding
    expected_N, fitted_N = (predict(model, data)[:, 3] for model in (reading, small))
    error = (fitted_N - expected_N).square().mean()
    assert error < 0.5 * (expected_N - expected_N.mean()).square().mean()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        with torch.no_grad():
            changed = specialised_head(reading, data)
            row_D = changed.classifier.fc.weight[3]
            row_D += 0.01 * torch.randn(len(row_D), generator=generator)
        assert (predict(changed, data)[:, 3] - expected_N).square().mean() > error
