"""Controls have the shape of what they are controls of, and nothing to find."""

import support
import torch
from headwise_exporter.nodes.controls import exchanged, untrained


def test_untrained_model_has_the_shape_and_other_weights() -> None:
    """By its seed alone; random numbers drawn afterwards are what they would have been."""
    model = support.random_model(support.uneven(support.small_config()))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = untrained(model, 0), untrained(model, 0)
    assert torch.equal(torch.rand(1), expected)
    assert first.config == model.config
    assert not first.training
    own, other = (dict(each.named_parameters()) for each in (model, first))
    assert any(not torch.equal(own[name], other[name]) for name in own)
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, other[name])
    assert not torch.equal(untrained(model, 1).classifier.fc.weight, first.classifier.fc.weight)


def test_exchanged_labels_are_the_same_labels_in_another_order() -> None:
    """The images stay as they are, and the number of each label."""
    data = support.random_images(torch.arange(40) % 4)
    other = exchanged(data, seed=0)
    assert torch.equal(other.images_NYXC, data.images_NYXC)
    assert torch.equal(other.labels_N.bincount(), data.labels_N.bincount())
    assert not torch.equal(other.labels_N, data.labels_N)
    assert not torch.equal(exchanged(data, seed=1).labels_N, other.labels_N)
