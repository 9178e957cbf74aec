"""Optimisers, schedule and averaged weights."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import support
import torch
from headwise_exporter.training.optimizers import (
    OPTIMIZERS,
    AveragedWeights,
    Muon,
    learning_rate,
    make_optimizers,
    orthogonalised,
    parameter_groups,
)
from hypothesis import given


def test_learning_rate_warms_up_and_falls_to_the_floor() -> None:
    """Linear up to the peak at the end of the warm-up, then down to the final rate."""
    rates = [learning_rate(epoch, epochs=10, warm_up_epochs=2, peak=1e-3, final=1e-5) for epoch in range(11)]
    assert rates[0] < rates[1] < rates[2] == 1e-3
    assert all(before > after for before, after in pairwise(rates[2:]))
    assert rates[10] == pytest.approx(1e-5)


@given(st.floats(0, 20), st.integers(1, 20), st.floats(0, 30))
def test_learning_rate_stays_between_nothing_and_the_peak(epoch: float, epochs: int, warm_up: float) -> None:
    """Also where the warm-up is longer than the training, shorter than an epoch, or there is none."""
    rate = learning_rate(min(epoch, epochs), epochs=epochs, warm_up_epochs=warm_up, peak=1.0, final=0.1)
    assert 0 < rate <= 1


def test_no_weight_decay_on_biases_and_norms() -> None:
    """Only matrices and kernels decay."""
    decayed, free = parameter_groups(list(support.random_model().parameters()), 0.06)
    assert decayed["weight_decay"] == 0.06
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 3, 4}
    assert free["weight_decay"] == 0.0
    assert {parameter.ndim for parameter in free["params"]} == {1}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_has_one_optimizer(name: str) -> None:
    """Muon takes the matrices of the encoders and the kernels, AdamW all the rest; none is left out or taken twice."""
    model = support.random_model()
    made = make_optimizers(model, list(model.parameters()), name, 1e-3, 0.1)
    held = [id(parameter) for optimizer in made for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    weights = (*model.classifier.blocks.parameters(), *model.tokenizer.parameters())
    inside = {id(parameter) for parameter in weights if parameter.ndim > 1}
    if name == "muon":
        assert {id(parameter) for parameter in made[0].param_groups[0]["params"]} == inside


def test_frozen_parameters_have_none() -> None:
    """The optimiser takes only parameters that learn; a part of a model may learn by itself."""
    model = support.random_model()
    model.classifier.fc.bias.requires_grad_(False)
    [only] = make_optimizers(model, list(model.classifier.fc.parameters()), "muon", 1e-3, 0.1)
    assert [len(group["params"]) for group in only.param_groups] == [1]


def test_unknown_optimizer_is_refused() -> None:
    """The message lists the known ones."""
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


def _stepped(make: type[torch.optim.Optimizer], **settings: object) -> list[torch.Tensor]:
    """Matrices of three shapes after five steps on gradients of their own."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((12, 8), (8, 12), (12, 8), (8, 8))
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = make(matrices, lr=0.1, weight_decay=0.1, **settings)
    for _ in range(5):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer.step()
    return [matrix.detach() for matrix in matrices]


def test_muon_is_that_of_torch() -> None:
    """The same steps but for bf16, in which torch's orthogonalisation computes."""
    theirs = _stepped(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    for ours, expected in zip(_stepped(Muon), theirs, strict=True):
        torch.testing.assert_close(ours, expected, atol=0.02, rtol=0.02)


@given(st.integers(0, 2**31), st.sampled_from(((4, 8, 8), (3, 6, 20), (2, 20, 6))))
def test_orthogonalised_matrices_have_singular_values_near_one(seed: int, shape: tuple[int, int, int]) -> None:
    """The singular vectors stay; values of a tenth of the largest and more are brought to about one."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    orthogonal = orthogonalised((u * (0.1 + values / values.amax(1, keepdim=True)).unsqueeze(1)) @ v)
    core = u.mT @ orthogonal @ v.mT
    near = torch.diagonal(core, dim1=1, dim2=2)
    assert ((near > 0.6) & (near < 1.3)).all()
    torch.testing.assert_close(core, torch.diag_embed(near), atol=1e-3, rtol=0)


def test_muon_resumes_from_its_state() -> None:
    """Two steps in a row are a step, its state saved and loaded, and another."""
    matrix = torch.nn.Parameter(torch.eye(4))
    copy = torch.nn.Parameter(torch.eye(4))
    straight, first, second = Muon([matrix], 0.1, 0.0), Muon([copy], 0.1, 0.0), Muon([copy], 0.1, 0.0)
    gradients = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    for gradient in gradients:
        matrix.grad = gradient.clone()
        straight.step()
    copy.grad = gradients[0].clone()
    first.step()
    second.load_state_dict(first.state_dict())
    copy.grad = gradients[1].clone()
    second.step()
    assert torch.equal(matrix, copy)


def test_muon_returns_the_loss_of_a_closure() -> None:
    """As torch's optimisers do."""
    matrix = torch.nn.Parameter(torch.eye(2))

    def closure() -> torch.Tensor:
        loss = (matrix**2).sum()
        loss.backward()
        return loss

    assert Muon([matrix], 0.1, 0.0).step(closure).item() == 2.0
    assert not torch.equal(matrix, torch.eye(2))


def test_muon_takes_a_kernel_as_a_matrix_of_its_outputs() -> None:
    """In any memory layout."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(6, 3, 3, 3, generator=generator))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    last = torch.nn.Parameter(kernel.detach().to(memory_format=torch.channels_last, copy=True))
    for parameter in (kernel, matrix, last):
        gradient = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1))
        parameter.grad = gradient.view(parameter.shape)
        Muon([parameter], 0.1, 0.1).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
    torch.testing.assert_close(last, kernel)
    assert last.is_contiguous(memory_format=torch.channels_last)
