"""Controls have the shape of what they are controls of, and nothing to find."""

import support
import torch
from headwise_exporter.nodes.controls import exchanged, untrained
from headwise_exporter.nodes.snp import PooledNodes


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


def test_exchanged_labels_are_the_same_labels_in_another_order_everywhere() -> None:
    """The nodes stay as they are, and the number of images of each label."""
    labels_P = torch.arange(40) % 4
    pooled = {
        name: PooledNodes(torch.randn(40, 3), labels_P, torch.randn(4, 3), torch.zeros(4)) for name in ("one", "two")
    }
    other = exchanged(pooled)
    assert torch.equal(other["one"].labels_P, other["two"].labels_P)
    assert not torch.equal(other["one"].labels_P, labels_P)
    assert torch.equal(other["one"].labels_P.bincount(), labels_P.bincount())
    for name, nodes in pooled.items():
        assert torch.equal(other[name].values_PN, nodes.values_PN)
