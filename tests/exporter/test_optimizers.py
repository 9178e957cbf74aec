"""Optimisers, schedule and averaged weights."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import support
import torch
from hypothesis import given

from exporter.optimizers import OPTIMIZERS, AveragedWeights, learning_rate, make_optimizers, parameter_groups


def test_learning_rate_warms_up_and_falls_to_the_floor() -> None:
    """Linear up to the peak at the end of the warm-up, then down to the final rate."""
    rates = [learning_rate(epoch, epochs=10, warm_up_epochs=2, peak=1e-3, final=1e-5) for epoch in range(11)]
    assert rates[0] < rates[1] < rates[2] == 1e-3
    assert all(before > after for before, after in pairwise(rates[2:]))
    assert rates[10] == pytest.approx(1e-5)


@given(st.floats(0, 20), st.integers(1, 20), st.integers(0, 30))
def test_learning_rate_stays_between_nothing_and_the_peak(epoch: float, epochs: int, warm_up: int) -> None:
    """Also where the warm-up is longer than the training, or there is none."""
    rate = learning_rate(min(epoch, epochs), epochs=epochs, warm_up_epochs=warm_up, peak=1.0, final=0.1)
    assert 0 < rate <= 1.02


def test_no_weight_decay_on_biases_and_norms() -> None:
    """Only matrices and kernels decay."""
    decayed, free = parameter_groups(list(support.random_model().parameters()), 0.06)
    assert decayed["weight_decay"] == 0.06
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 3, 4}
    assert free["weight_decay"] == 0.0
    assert {parameter.ndim for parameter in free["params"]} == {1}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_has_one_optimizer(name: str) -> None:
    """Muon takes the matrices of the encoders, AdamW all the rest; nothing is left out or taken twice."""
    model = support.random_model()
    made = make_optimizers(model, list(model.parameters()), name, 1e-3, 0.1)
    held = [id(parameter) for optimizer in made for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    inside = {id(parameter) for parameter in model.classifier.blocks.parameters() if parameter.ndim == 2}
    if name == "muon":
        assert {id(parameter) for parameter in made[0].param_groups[0]["params"]} == inside


def test_frozen_parameters_have_none() -> None:
    """What does not learn is left alone; a part of a model may learn by itself."""
    model = support.random_model()
    model.classifier.fc.bias.requires_grad_(False)
    [only] = make_optimizers(model, list(model.classifier.fc.parameters()), "muon", 1e-3, 0.1)
    assert [len(group["params"]) for group in only.param_groups] == [1]


def test_unknown_optimizer_is_refused() -> None:
    """With the known ones."""
    with pytest.raises(ValueError, match="expected an optimiser of adamw, muon, found 'sgd'"):
        make_optimizers(support.random_model(), [], "sgd", 1e-3, 0.1)


def test_average_follows_the_weights() -> None:
    """Weights that stand still are their own average; the average of two lies between them."""
    weight = torch.nn.Parameter(torch.ones(3))
    average = AveragedWeights([weight], 0.9)
    average.update()
    assert torch.equal(average.averages[0], torch.ones(3))
    with torch.no_grad():
        weight.fill_(5.0)
    average.update()
    assert (average.averages[0] > 1).all()
    assert (average.averages[0] < 5).all()
    average.swap()
    assert (weight < 5).all()
    average.swap()
    assert torch.equal(weight.detach(), torch.full((3,), 5.0))


def test_average_is_the_recursion() -> None:
    """decay * average + (1 - decay) * weight, the decay growing from 2 / 11 to its limit."""
    weight, generator = torch.nn.Parameter(torch.zeros(4)), torch.Generator().manual_seed(0)
    average, expected = AveragedWeights([weight], 0.5), torch.zeros(4)
    for number in range(1, 20):
        with torch.no_grad():
            weight.copy_(torch.randn(4, generator=generator))
        average.update()
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.averages[0], expected)
