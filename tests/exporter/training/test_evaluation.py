"""Predictions, and how often they are right."""

import pytest
import support
import torch
from headwise_exporter.training.evaluation import accuracy, evaluate, predict, wilson_interval
from torch.nn import functional


def test_wilson_interval_is_the_textbooks() -> None:
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    interval = wilson_interval(81, 263)
    assert interval.low == pytest.approx(0.2553, abs=5e-5)
    assert interval.high == pytest.approx(0.3662, abs=5e-5)


def test_evaluation_is_of_every_image() -> None:
    """Which images are right, how many, their share, and the mean loss."""
    model, data = support.random_model(), support.random_images(torch.arange(37) % 10)
    logits_NK, evaluation = predict(model, data, batch_size=8), evaluate(model, data)
    correct_N = logits_NK.argmax(1) == data.labels_N
    assert torch.equal(evaluation.correct_N, correct_N)
    assert (evaluation.images, evaluation.correct) == (37, int(correct_N.sum()))
    assert evaluation.accuracy == pytest.approx(float(correct_N.double().mean()))
    assert evaluation.loss == pytest.approx(float(functional.cross_entropy(logits_NK, data.labels_N)), rel=1e-5)


def test_accuracy_lies_in_its_interval() -> None:
    """The row names model and split."""
    data = support.random_images(torch.arange(30) % 10)
    row = accuracy("dense", support.random_model(), "test", data)
    assert (row.model, row.split, row.images) == ("dense", "test", 30)
    assert row.interval_low <= row.accuracy <= row.interval_high
    assert row.correct == round(row.accuracy * row.images)
